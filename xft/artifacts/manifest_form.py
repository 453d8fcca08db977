"""The form of a manifest file. Only what reads manifests loads pydantic, which takes a while."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from xft.common.errors import described


def _inside(name: str) -> str:
    if "\0" in name or {"", ".", ".."} & set(name.split("/")):
        raise ValueError("it is not the path of a file inside the artifact")
    return name


class _Form(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _FileForm(_Form):
    size: NonNegativeInt
    sha256: Digest
    header_sha256: Digest = ""


class _ManifestForm(_Form):
    kind: str
    files: dict[Annotated[str, AfterValidator(_inside)], _FileForm]
    parameters: dict
    inputs: dict[str, Digest]
    format: int


def fault_of_form(content: dict) -> str | None:
    """What is wrong with the content of a manifest file, without its id; None if nothing is."""
    try:
        _ManifestForm(**content)
    except ValidationError as error:
        return described(error)[:500]
    return None
