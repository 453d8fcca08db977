"""Snakemake's own report holds the page, the tables and the figures of this workflow."""

import zipfile


def test_it_holds_the_page_the_tables_and_the_figures(finished_copy):
    done = finished_copy.snakemake("--report", "all.zip")
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(finished_copy.folder / "all.zip") as zipped:
        held = {zipped.read(name) for name in zipped.namelist() if "/data/" in name}
        page = zipped.read("all/report.html").decode()
    for shown in ("report.html", "summary.csv", "comparisons.csv"):
        assert (finished_copy.results / shown).read_bytes() in held
        assert shown in page
    assert "A row for each pair of models" in page
    figures = sorted(finished_copy.results.glob("figures/*/*.svg"))
    assert {file.parent.name for file in figures} == {"scores", "differences", "training"}
    for figure in figures:
        assert figure.read_bytes() in held
        assert figure.stem in page
    for caption in ("The share of problems", "The difference between two models", "Each training"):
        assert caption in page
