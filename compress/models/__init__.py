"""Networks by name: torchvision's own wherever it has them, and a person's own by `package.module:function`."""
