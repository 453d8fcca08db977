"""Snakemake's own report holds the page and the tables of this workflow."""

import zipfile


def test_it_holds_the_page_and_the_tables(finished_copy):
    done = finished_copy.snakemake("--report", "all.zip")
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(finished_copy.folder / "all.zip") as zipped:
        held = {zipped.read(name) for name in zipped.namelist() if "/data/" in name}
        page = zipped.read("all/report.html").decode()
    for shown in ("report.html", "summary.csv", "comparisons.csv"):
        assert (finished_copy.results / shown).read_bytes() in held
        assert shown in page
    assert "A row for each pair of models" in page
