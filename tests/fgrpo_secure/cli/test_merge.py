"""A finished run becomes a model that transformers loads by itself and that computes what base and adapter do."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
from typer.testing import CliRunner

from fgrpo_secure.cli import app
from fgrpo_secure.config import model_files


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own loading, by an old name
def test_a_run_is_merged_into_a_model_that_the_librarys_pipeline_loads(fgrpo, config, tmp_path):
    assert fgrpo("run", config(), "--out", "mine").exit_code == 0
    said = fgrpo("merge", "mine", "merged")
    assert said.exit_code == 0, said.output
    base = AutoModelForCausalLM.from_pretrained(model_files.folder("builtin"), dtype=torch.float32)
    ids = torch.tensor([[5, 6, 40, 7, 45]])
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        expected = PeftModel.from_pretrained(base, tmp_path / "mine" / "adapter").eval()(input_ids=ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(input_ids=ids).logits
    torch.testing.assert_close(merged, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(merged, plain, atol=1e-3)
    loaded = pipeline("text-generation", str(tmp_path / "merged"))
    written = loaded("12+3=", max_new_tokens=4, do_sample=False, return_full_text=False)[0]["generated_text"]
    likeliest = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model_files.folder("builtin"), dtype=torch.float32),
        tmp_path / "mine" / "adapter",
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    asked = tokenizer("12+3=", return_tensors="pt")["input_ids"]
    theirs = likeliest.generate(input_ids=asked, max_new_tokens=4, do_sample=False)[0, asked.shape[1] :]
    assert written == tokenizer.decode(theirs, skip_special_tokens=True)
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "base_model: builtin" in card
    assert "| trained on | add, cnt, minmax, mod, mul, rev, sort, sub |" in card
    assert "for each client against whoever has this model" in card
    assert "| rounds, clients | 2, 8 |" in card
    (verify,) = [line.split() for line in card.splitlines() if line.startswith("    fgrpo verify DIR")]
    assert fgrpo("verify", "mine", *verify[3:]).exit_code == 0
    said = CliRunner().invoke(app, ["chat", "mine", "--temperature", "0", "--tokens", "4"], input="12+3=\n\n12+3=\n")
    assert said.stdout == f"{written}\n{written}\n", "the likeliest reply, to each line by itself"
    _evaluates_as_the_run_did(fgrpo, tmp_path)


def _evaluates_as_the_run_did(fgrpo, folder):
    """On the run's own problems its own figures; on others those of the problems that are given."""
    summary = json.loads((folder / "mine" / "summary.json").read_text())
    found = json.loads(fgrpo("eval", "mine", "--json").stdout)
    for name, kind in (("sampled", "pass_rate."), ("greedy", "pass_rate.greedy_")):
        assert found[name]["before"]["mean"] == pytest.approx(summary[f"{kind}initial"])
        assert found[name]["after"]["mean"] == pytest.approx(summary[f"{kind}final"])
        gained = found[name]["gained"]
        assert gained["mean"] == pytest.approx(summary[f"{kind}final"] - summary[f"{kind}initial"])
        assert gained["low"] < gained["mean"] < gained["high"] or gained["low"] == gained["mean"] == gained["high"]
    (folder / "other.jsonl").write_text('{"prompt": "12+3=", "answer": "no such answer"}\n' * 3)
    lines = fgrpo("eval", "mine", "--data", "other.jsonl", "--samples", "2").stdout.splitlines()
    assert lines[0] == "3 problems, 95 % intervals over problems"
    assert lines[1].startswith("sampled  0.0 % -> 0.0 %: +0.0 points [0.0, 0.0]; no difference that this many")


def test_what_cannot_be_merged_is_one_sentence(refused, tmp_path):
    for command in (("merge", "nothing", "merged"), ("eval", "nothing"), ("chat", "nothing")):
        assert "is no finished run" in refused(*command)
    assert "give --data, too" in refused("eval", "nothing", "--reward", "exact")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").touch()
    (tmp_path / "run" / "summary.json").touch()
    assert "run exists already" in refused("merge", "run", "run")
