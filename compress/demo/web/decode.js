// Image files to pixels as they are in the file: upright, with no colour management, and with
// colours that are not multiplied by alpha.

// Images with more pixels are refused, as Pillow does.
const MOST_PIXELS = 89478485;

/**
 * Decode an image file.
 *
 * @param {Blob} file
 * @returns {Promise<{width: number, height: number, data: Uint8ClampedArray}>} RGBA
 */
export async function decode(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch {
    throw new Error("not an image that this browser can read");
  }
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) {
    throw new Error(`too large, more than ${MOST_PIXELS.toLocaleString("en")} pixels`);
  }
  let data = readCanvas(bitmap);
  if (hasTransparency(data)) data = readTexture(bitmap) ?? data;
  bitmap.close();
  return { width, height, data };
}

function readCanvas(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height).data;
}

function hasTransparency(data) {
  for (let place = 3; place < data.length; place += 4) if (data[place] < 255) return true;
  return false;
}

/** Read pixels through WebGL: a canvas multiplies them by alpha. Null where that is not possible. */
function readTexture(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(
    gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0,
  );
  const data = new Uint8ClampedArray(width * height * 4);
  const bytes = new Uint8Array(data.buffer);
  const complete = gl.checkFramebufferStatus(gl.FRAMEBUFFER) === gl.FRAMEBUFFER_COMPLETE;
  if (complete) gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
  const failed = !complete || gl.getError() !== gl.NO_ERROR;
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return failed ? null : data;
}
