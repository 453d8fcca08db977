"""The Jinja templates of cards, summary and report."""

from functools import cache


@cache
def templates(package: str, is_html: bool = False):
    """The environment for the templates in a package's folder. A missing value is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=is_html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
