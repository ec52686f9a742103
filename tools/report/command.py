"""Pages on disk: report.html, report.json beside it and, where they are asked for, the figures as PNG files."""

from contextlib import closing, nullcontext
from pathlib import Path

from src.checkpointing.run_folder import RunFolder
from src.files import make_folder, save_json, save_text
from tools.report.images import Pictures


def write(runs, output=None, pictures=None, has_images=True):
    """Write the page of a run, or of several; return its path. has_images: show the worst ones of a run."""
    path = Path(output) if output else Path(runs[0]) / "report.html"
    if len(runs) > 1:
        from tools.report.comparison import build_comparison

        names = [Path(run).resolve().name for run in runs]
        path = Path(output) if output else Path(runs[0]).parent / f"report_{'_'.join(names)[:150]}.html"
        page, facts = build_comparison(runs)
    else:
        has_images = has_images and RunFolder(runs[0]).oof.is_file()
        if pictures is not None:
            make_folder(pictures, "pictures")
        with closing(Pictures(runs[0], pictures)) if has_images else nullcontext() as images:
            from tools.report.page import build_page  # here, as it takes a second, in which the images begin

            page, facts = build_page(runs[0], path.parent, images)
    from tools.page import render

    make_folder(path.parent, "output")
    facts |= {"figures": {}, "worst": facts.get("worst", [])}
    if pictures is not None:
        folder = make_folder(pictures, "pictures")
        facts["figures"] = {one.name: one.save_png(folder) for section in page.sections for one in section.drawings}
    save_text(path, render("report/report.html.jinja", page=page))
    save_json(path.with_suffix(".json"), facts)
    return path
