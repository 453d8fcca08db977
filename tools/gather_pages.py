"""A hook of MkDocs: the site has the repository's folders, so each link leads where it leads there.

Without it the site would hold docs/ alone, and links to files outside of docs/ would break.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
SHOWN = (
    "*.md",
    "docs/**/*.*",
    "benchmarks/*.md",
    "config/*.md",
    "experiments/*",
    "recipes/*",
    "resources/*.md",
    "CITATION.cff",
    "LICENSE",
    "examples/*.ipynb",
    "tests/emulated_gpu/README.md",
    "tools/iframe-worker.js",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's own files, and instead of those below docs_dir the files of SHOWN."""
    theme = [file for file in files if file.src_dir != config.docs_dir]
    shown = sorted(path for pattern in SHOWN for path in ROOT.glob(pattern))
    pages = []
    for path in shown:
        name = path.relative_to(ROOT).as_posix()
        directory_urls = config.use_directory_urls
        pages.append(
            File(name, str(ROOT), dest_dir=config.site_dir, use_directory_urls=directory_urls)
        )
    return Files([*theme, *pages])
