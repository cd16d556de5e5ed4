"""Reports: a run, a sweep or an experiment as one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from compress.experiments.ledger import LEDGER
from compress.pipeline.manifest import MANIFEST, read_results
from compress.runtime.errors import UserError
from compress.runtime.files import require_page


def report(
    path: str | Path,
    out: str | Path = "report.html",
    *,
    evaluate: bool = True,
    data: str | None = None,
    builders: Sequence[str] = (),
    device: str = "auto",
    log: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write a page about a run, a sweep or an experiment: one HTML file, which needs no network.

    Args:
        path: directory of a run, a sweep or an experiment.
        out: file to write; an older page there is replaced.
        evaluate: of a finished run, score the final network and its teacher on the test split, for
            the confusion and the pictures. Where that is not possible, the page says why.
        data: the run's data, if it has moved.
        builders: functions ``package.module:function`` that build its custom networks.
        device: ``auto``, ``cpu`` or ``cuda``.
        log: called with a line on each network that is scored, and on what is left out.

    Returns:
        The file.

    Raises:
        UserError: there is nothing to report in `path`, a file there is damaged, or `out` exists
            and is not a page.

    Example:
        >>> compress.report("runs/mine", "mine.html")
        PosixPath('mine.html')
    """
    path, out = Path(path), Path(out)
    require_page(out)
    if (path / MANIFEST).is_file():
        _report_run(path, out, evaluate, data, builders, device, log)
    elif (path / LEDGER).is_file():
        from compress.experiments.experiment_page import write_experiment_page

        write_experiment_page(path, out)
    elif path.is_dir() and any(path.glob(f"*/{MANIFEST}")):
        from compress.experiments.sweep_page import write_sweep_page

        write_sweep_page(path, out)
    else:
        missing = "" if path.is_dir() else ", and no directory"
        raise UserError(f"{path}: holds no run, sweep or experiment{missing}")
    return out


def _report_run(
    path: Path,
    out: Path,
    evaluate: bool,
    data: str | None,
    builders: Sequence[str],
    device: str,
    log: Callable[[str], None],
) -> None:
    from compress.reporting.pages.run_page import write_run_page
    from compress.reporting.pages.seen import see_images

    manifest, results = read_results(path)
    seen, notes = None, []
    if evaluate and manifest["status"] == "done":
        try:
            seen = see_images(path, results, data=data, builders=builders, device=device, log=log)
            notes = [seen.note] if seen.note else []
        except UserError as error:
            notes = [f"Confusion and pictures are left out: {error}"]
    for note in notes:
        log(note)
    write_run_page(path, out, seen, notes)
