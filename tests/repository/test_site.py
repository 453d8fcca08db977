"""The documents' site, as far as it shows without MkDocs: `make docs` checks its links."""

import yaml
from documents import DOCUMENTS, ROOT, links


def pages(nav: list) -> list[str]:
    """The files that a navigation names, in its order."""
    found = []
    for entry in nav:
        (value,) = entry.values() if isinstance(entry, dict) else [entry]
        found += pages(value) if isinstance(value, list) else [value]
    return found


NAV = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])


def test_the_navigation_names_each_document_once():
    documents = [str(document.relative_to(ROOT)) for document in DOCUMENTS]
    assert sorted(NAV) == sorted([*documents, "CHANGELOG.md"])


def test_the_navigation_has_the_order_of_the_readme(tmp_path):
    table = tmp_path / "table.md"
    table.write_text((ROOT / "README.md").read_text().partition("\n## Read on\n")[2])
    read_on = [link for link in links(table) if link.endswith(".md")]
    assert read_on == [page for page in NAV if page in read_on]
