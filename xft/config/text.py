"""Reads config files, and reports the line of a fault.

Snakemake reads config files itself too, but of two equal keys it silently keeps the last.
"""

from pathlib import Path

from xft.common.errors import UserError


def read_config(path: Path) -> dict:
    """The configuration in a YAML or JSON file.

    Raises UserError, with file, line and column, if it is not valid or holds a key twice.
    """
    import yaml

    try:
        config = _loader(path)(path.read_text(encoding="utf-8")).get_single_data()
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"there is no file {path}") from None
    except RecursionError:
        raise UserError(f"{path} is not valid YAML: it is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UserError(
            f"{_place(path, mark)}, is not valid YAML: {error.problem or error.context}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no configuration: it must be a mapping of keys")
    return config


def _loader(path: Path) -> type:
    """PyYAML's safe loader, which raises UserError if a mapping has two equal keys.

    It says the place of each value that cannot be read.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_object(self, node, deep=False):
            fault = "the anchor holds itself"
            try:
                if node not in self.recursive_objects:
                    return super().construct_object(node, deep=True)
            except (ValueError, LookupError, AttributeError) as error:  # of PyYAML's constructors
                fault = f"the {node.tag.rpartition(':')[2]} cannot be read: {error}"
            raise yaml.constructor.ConstructorError(None, None, fault, node.start_mark)

        def construct_mapping(self, node, deep=False):
            marks = {}
            for key, _ in node.value:
                first = marks.setdefault((key.tag, str(key.value)), key.start_mark)
                if first is not key.start_mark:
                    raise UserError(
                        f"{_place(path, key.start_mark)}: the key {key.value} is set twice, "
                        f"first in line {first.line + 1}. Leave one of them out"
                    )
            return super().construct_mapping(node, deep)

    return Loader


def _place(path: Path, mark) -> str:
    return f"{path}, line {mark.line + 1}, column {mark.column + 1}"


def as_yaml(values: dict) -> str:
    """A configuration, or some of it, as YAML."""
    import yaml

    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
