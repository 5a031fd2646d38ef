"""What the files say of an adapter is what the loaded adapter has: shapes, lengths of both kinds of rounds, bytes."""

import pytest
from safetensors.torch import save

from fgrpo_secure.config.schema import Adapter
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.models import Model
from fgrpo_secure.plan import adapter_shape

TARGETS = {"llama": ("o_proj", "down_proj"), "qwen2": ("q_proj", "v_proj"), "gpt2": ("c_attn", "c_proj")}


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("factors", ["ffa", "alternate", "full"])
def test_files_and_loaded_adapter_agree(model_folders, family, factors, rank):
    settings = Adapter(targets=TARGETS[family], factors=factors, rank=rank)
    adapted = adapters.attach(models.load(Model(path=model_folders[family])), settings, seed=0)
    read, loaded = adapter_shape.read(model_folders[family], settings), adapter_shape.of(adapted)
    assert read.tensors == loaded.tensors
    assert [read.dimension(kind) for kind in (0, 1, 2)] == [adapted.dimension(kind) for kind in (0, 1, 2)]
    assert read.file_bytes == len(save(adapted.full_state()))


def test_another_rank_is_what_an_adapter_of_that_rank_has(model_folders):
    settings = Adapter(targets=("down_proj",), factors="alternate", rank=2)
    wider = settings.model_copy(update={"rank": 5})
    folder = model_folders["llama"]
    assert adapter_shape.read(folder, settings).with_rank(5) == adapter_shape.read(folder, wider)


@pytest.mark.parametrize("targets", [("nothing_of_that_name",), ("input_layernorm",)])
def test_files_that_do_not_say_leave_it_to_the_loaded_model(model_folders, targets):
    assert adapter_shape.read(model_folders["llama"], Adapter(targets=targets)) is None
    assert adapter_shape.read("some/hub-id", Adapter()) is None
