"""Contract: on the same tensors our objective and its gradients are those of TRL's GRPOTrainer."""

import itertools

import pytest
import torch

from fgrpo_secure.config.schema import Grpo
from fgrpo_secure.learning.grpo.local_update import completion_logp
from fgrpo_secure.learning.grpo.objective import objective
from fgrpo_secure.learning.grpo.rollouts import Rollouts

pytestmark = [
    pytest.mark.slow,  # importing TRL takes seconds
    pytest.mark.filterwarnings("ignore"),  # what TRL and its trainer warn of is not ours
]
GRID = list(
    itertools.product(
        ("grpo", "dr_grpo", "bnpo", "dapo"), (0.0, 0.1), (None, 0.3), ("token", "sequence"), (True, False)
    )
)
TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def trainer(model_folders, tmp_path_factory):
    """A real trainer on the small Llama with an adapter; tests set what a case varies."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    arguments = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        use_cpu=True,
        bf16=False,
        report_to=[],
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=6,
        temperature=TEMPERATURE,
        model_init_kwargs={"dtype": "float32"},
    )
    return GRPOTrainer(
        model=model_folders["llama"],
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "1+1="}] * 8),
        processing_class=AutoTokenizer.from_pretrained(model_folders["llama"], padding_side="left"),
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules=["o_proj", "down_proj"]),
    )


def configure(trainer, settings):
    trainer.loss_type = settings.loss_type
    trainer.beta = settings.beta
    trainer.epsilon_low = settings.epsilon
    trainer.epsilon_high = settings.epsilon_high or settings.epsilon
    trainer.importance_sampling_level = settings.importance_sampling_level
    trainer.args.use_bias_correction_kl = settings.use_bias_correction_kl
    trainer.max_completion_length = settings.max_completion_length
    trainer.model.eval()  # one batch, nothing accumulated


def case(kind, beta, epsilon_high, level, corrected):
    return Grpo(
        loss_type=kind,
        beta=beta,
        epsilon_high=epsilon_high,
        importance_sampling_level=level,
        use_bias_correction_kl=corrected,
        max_completion_length=6,
    )


@pytest.fixture
def tensors():
    """(log-probabilities, old, reference, advantages, mask): ratios on both sides of both clips."""
    random = torch.Generator().manual_seed(4)
    logp, old, reference = (-1 - 0.6 * torch.rand(8, 6, generator=random, dtype=torch.float64) for _ in range(3))
    lengths = torch.tensor([6, 1, 3, 6, 2, 5, 4, 0])  # one completion is masked altogether
    mask = (torch.arange(6) < lengths.unsqueeze(1)).double()
    return logp, old, reference, torch.randn(8, generator=random, dtype=torch.float64), mask


def trl_inputs(old, reference, advantages, mask):
    return {
        "prompt_ids": torch.ones(8, 2, dtype=torch.long),
        "prompt_mask": torch.ones(8, 2, dtype=torch.long),
        "completion_ids": torch.ones(8, 6, dtype=torch.long),
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }


def both(trainer, monkeypatch, settings, tensors):
    """(our loss and gradient, TRL's) as functions of the log-probabilities."""
    logp, old, reference, advantages, mask = tensors
    configure(trainer, settings)
    results = []
    for theirs in (False, True):
        leaf = logp.clone().requires_grad_()
        if theirs:
            monkeypatch.setattr(
                trainer,
                "_get_per_token_logps_and_entropies",
                lambda *_, leaf=leaf, **__: (leaf, torch.zeros_like(leaf), None),
            )
            loss = trainer._compute_loss(trainer.model, trl_inputs(old, reference, advantages, mask))
        else:
            loss = objective(leaf, old, reference, advantages, mask, settings)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    return results


@pytest.mark.parametrize("options", GRID, ids=lambda options: "-".join(map(str, options)))
def test_loss_and_gradient_equal_trls(trainer, monkeypatch, tensors, options):
    (loss, gradient), (their_loss, their_gradient) = both(trainer, monkeypatch, case(*options), tensors)
    assert abs(loss - their_loss) < 1e-12
    assert (gradient - their_gradient).abs().max() < 1e-12
    assert their_gradient.abs().max() > 1e-3


def test_the_comparison_notices_every_option(trainer, monkeypatch, tensors):
    """The control: each of two cases that differ in one option has a loss of its own, at TRL and here."""
    base = ("dr_grpo", 0.1, None, "token", True)
    changed = [("grpo", 0.1, None, "token", True), ("dr_grpo", 0.0, None, "token", True)]
    changed += [("dr_grpo", 0.1, 0.3, "token", True), ("dr_grpo", 0.1, None, "sequence", True)]
    changed += [("dr_grpo", 0.1, None, "token", False), ("bnpo", 0.1, None, "token", True)]
    losses = [both(trainer, monkeypatch, case(*options), tensors) for options in (base, *changed)]
    for (loss, _), (their_loss, _) in losses[1:]:
        assert abs(loss - losses[0][0][0]) > 1e-4
        assert abs(their_loss - losses[0][1][0]) > 1e-4


def test_the_reference_of_a_starting_adapter_is_trls(make_adapted, model_folders, prompts, tmp_path):
    """TRL compares with a copy of the adapter that it is given; a run's start is that copy, wherever it has moved."""
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer
    from trl.trainer.grpo_trainer import use_adapter

    make_adapted("llama").save(tmp_path / "start")
    adapted = make_adapted("llama", moved=0.2, init_from=str(tmp_path / "start"))
    base = AutoModelForCausalLM.from_pretrained(model_folders["llama"], dtype=torch.float32)
    theirs = GRPOTrainer(
        model=PeftModel.from_pretrained(base, tmp_path / "start", is_trainable=True),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to=[], beta=0.1, temperature=TEMPERATURE),
        train_dataset=Dataset.from_list([{"prompt": "1+1="}] * 8),
        processing_class=adapted.base.tokenizer,
    )
    parameters = dict(theirs.model.named_parameters())
    with torch.no_grad():
        for name, tensor in adapted.full_state().items():
            parameters[name].copy_(tensor)
    ids = torch.randint(2, 18, (8, 6), generator=torch.Generator().manual_seed(6))
    encoded = adapted.base.tokenizer(prompts, padding=True, return_tensors="pt")
    asked, mask = encoded["input_ids"], encoded["attention_mask"]
    rollouts = Rollouts(asked, mask, ids, torch.ones_like(ids), torch.ones(8, dtype=torch.bool), [], [])
    rows = [each.repeat_interleave(2, 0) for each in (asked, mask)]
    theirs.model.eval()
    logp = []
    for adapter in ("default", "ref"):
        with use_adapter(theirs.model, adapter_name=adapter), torch.no_grad():
            whole = torch.cat([rows[0], ids], 1), torch.cat([rows[1], torch.ones_like(ids)], 1)
            logp.append(theirs._get_per_token_logps_and_entropies(theirs.model, *whole, 6)[0])
    with torch.no_grad():
        now = completion_logp(adapted, rollouts, TEMPERATURE)
        with adapted.reference():
            reference = completion_logp(adapted, rollouts, TEMPERATURE)
    torch.testing.assert_close(now, logp[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reference, logp[1], atol=1e-5, rtol=1e-5)
    assert (logp[0] - logp[1]).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "bnpo", "dapo"])
def test_on_a_real_model_the_gradients_of_all_factors_equal_trls(trainer, make_adapted, prompts, kind):
    settings = case(kind, 0.1, 0.3, "token", True).model_copy(update={"temperature": TEMPERATURE})
    configure(trainer, settings)
    adapted = make_adapted("llama")
    theirs = dict(trainer.model.named_parameters())
    with torch.no_grad():
        for name, tensor in adapted.full_state().items():
            theirs[name].copy_(tensor)
    random = torch.Generator().manual_seed(6)
    ids = torch.randint(2, 18, (8, 6), generator=random)
    mask = (torch.arange(6) < torch.tensor([6, 1, 3, 6, 2, 5, 4, 6]).unsqueeze(1)).long()
    encoded = adapted.base.tokenizer(prompts, padding=True, return_tensors="pt")
    rollouts = Rollouts(encoded["input_ids"], encoded["attention_mask"], ids, mask, mask.sum(1) == 6, [], [])
    old, reference = (completion_logp(adapted, rollouts, TEMPERATURE).detach() for _ in range(2))
    old += 0.2 * torch.randn(8, 6, generator=random)
    reference += 0.2 * torch.randn(8, 6, generator=random)
    advantages = torch.randn(8, generator=random)
    inputs = trl_inputs(old, reference, advantages, mask) | {
        "prompt_ids": rollouts.prompt_ids.repeat_interleave(2, 0),
        "prompt_mask": rollouts.prompt_mask.repeat_interleave(2, 0),
        "completion_ids": ids,
    }

    parameters = adapted.trainable(0)
    names = [name for name, parameter in adapted.model.named_parameters() if parameter.requires_grad]
    logp = completion_logp(adapted, rollouts, TEMPERATURE)
    loss = objective(logp, old, reference, advantages, mask.float(), settings)
    their_loss = trainer._compute_loss(trainer.model, inputs)
    assert abs(loss - their_loss) < 1e-6
    gradients = dict(zip(sorted(names), torch.autograd.grad(loss, parameters), strict=True))
    their_gradients = torch.autograd.grad(their_loss, [theirs[name] for name in sorted(names)])
    for name, gradient in zip(sorted(names), their_gradients, strict=True):
        assert gradient.abs().max() > 1e-3
        assert (gradients[name] - gradient).abs().max() < 2e-6 * max(1, gradient.abs().max())
