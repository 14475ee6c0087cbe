"""The network computes what LeRobot's computes: names, numbers, gradients, and the step that follows from them."""

import functools
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from common.act.config import ActConfig
from common.act.network import Act, ActOutput, parameter_groups
from common.act.resnet import ResNet, load_backbone_weights
from common.act.transformer import Attention, Decoder, Encoder, drop
from common.cli.command import UserError
from common.cli.config import changed
from stage2_train.loss import Loss, act_loss
from tests.golden import golden_weights

GOLDEN = Path(__file__).parents[2] / "golden" / "act_tiny"
STATISTICS = load_file(GOLDEN / "pretrained_model" / "policy_preprocessor_step_3_normalizer_processor.safetensors")
EXPECTED = load_file(GOLDEN / "expected.safetensors")
INPUTS = load_file(GOLDEN / "inputs.safetensors")
KL_WEIGHT = 10.0
VARIANTS = ["", "two_cam", "no_vae"]
SMALL = ActConfig(
    chunk_size=5, dim_model=32, n_heads=4, dim_feedforward=48, n_encoder_layers=2, n_vae_encoder_layers=2, dropout=0.0
)


def normalized(x: Tensor, key: str) -> Tensor:
    return (x - STATISTICS[f"{key}.mean"]) / (STATISTICS[f"{key}.std"] + 1e-8)


def images(variant: str) -> list[Tensor]:
    names = ["image_u8_hwc", "image_wrist_u8_hwc"] if variant == "two_cam" else ["image_u8_hwc"]
    return [normalized(INPUTS[name].permute(0, 3, 1, 2) / 255, "observation.images.color") for name in names]


STATE = normalized(INPUTS["state"], "observation.state")
ACTION = normalized(INPUTS["action"], "action")
PAD = INPUTS["action_is_pad"]


def shapes(variant: str) -> dict[str, list[int]]:
    named: dict[str, list[int]] = json.loads((GOLDEN / f"keys{'.' * bool(variant)}{variant}.json").read_text())
    return named


def golden_config(variant: str) -> ActConfig:
    path = GOLDEN / (f"config.{variant}.json" if variant else "pretrained_model/config.json")
    values = json.loads(path.read_text())
    return ActConfig(**{name: values[name] for name in ActConfig.model_fields})


@functools.cache
def weights(variant: str) -> dict[str, Tensor]:
    return {name: torch.from_numpy(w) for name, w in golden_weights.build(shapes(variant)).items()}


def golden_model(variant: str) -> Act:
    model = Act(golden_config(variant), 6, 6, n_cameras=2 if variant == "two_cam" else 1)
    model.load_state_dict({name.removeprefix("model."): w for name, w in weights(variant).items()})
    return model


def expected(variant: str, key: str) -> Tensor:
    return EXPECTED[f"{variant}:{key}" if variant else key]


def trained_forward(model: Act, variant: str, pad: Tensor = PAD) -> tuple[ActOutput, Loss]:
    output = model.train()(STATE, images(variant), ACTION, pad, INPUTS["eps"])
    return output, act_loss(output, ACTION, pad, KL_WEIGHT)


def gradients(model: Act) -> dict[str, Tensor]:
    _, loss = trained_forward(model, "")
    loss.total.backward()  # type: ignore[no-untyped-call]
    return {f"model.{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}


def close(actual: Tensor, wanted: Tensor, atol: float = 1e-5, rtol: float = 0.0) -> None:
    torch.testing.assert_close(actual, wanted, atol=atol, rtol=rtol)


def test_rebuilt_weights_are_those_the_golden_numbers_were_made_with() -> None:
    digest = hashlib.sha256()
    for name, weight in sorted(weights("").items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    assert digest.hexdigest() == (GOLDEN / "weights.sha256").read_text().split()[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_dict_has_lerobots_names_shapes_and_order(variant: str) -> None:
    own = {f"model.{name}": list(w.shape) for name, w in golden_model(variant).state_dict().items()}
    assert list(own.items()) == list(shapes(variant).items())


def test_default_network_has_every_tensor_of_a_lerobot_checkpoint() -> None:
    lines = (GOLDEN / "model_keys_default_resnet18.tsv").read_text().splitlines()
    wanted = {name: shape for name, _, shape in (line.split("\t") for line in lines if not line.startswith("#"))}
    own = Act(ActConfig(), 6, 6, n_cameras=1).state_dict()
    assert {f"model.{name}": "x".join(map(str, w.shape)) for name, w in own.items()} == wanted


def test_parameters_come_in_the_order_that_optimizer_states_are_indexed_by() -> None:
    names = [f"model.{name}" for name, _ in golden_model("").named_parameters()]
    assert names == json.loads((GOLDEN / "parameter_order.json").read_text())


@pytest.mark.parametrize("variant", VARIANTS)
def test_predicted_chunk_equals_lerobots(variant: str) -> None:
    with torch.inference_mode():
        chunk = golden_model(variant).eval()(STATE, images(variant)).actions_BCA
    close(chunk, expected(variant, "eval.chunk_normalized"))
    close(chunk * STATISTICS["action.std"] + STATISTICS["action.mean"], expected(variant, "eval.chunk"))


def test_frozen_network_predicts_the_same_and_keeps_its_state_dict() -> None:
    model = golden_model("").eval()
    before = {name: w.clone() for name, w in model.state_dict().items()}
    with torch.no_grad():
        chunk = model(STATE, images("")).actions_BCA
    frozen = model.freeze()
    close(frozen(STATE, images("")).actions_BCA, chunk, atol=1e-6)
    assert list(before) == list(frozen.state_dict())
    assert all(torch.equal(w, before[name]) for name, w in frozen.state_dict().items())
    assert not any(p.requires_grad for p in frozen.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_forward_equals_lerobots(variant: str) -> None:
    output, _ = trained_forward(golden_model(variant), variant)
    close(output.actions_BCA, expected(variant, "train.actions_hat"))
    if variant == "no_vae":
        assert output.mu_BL is None
        assert output.log_variance_BL is None
    else:
        assert output.mu_BL is not None
        assert output.log_variance_BL is not None
        close(output.mu_BL, expected(variant, "train.mu"))
        close(output.log_variance_BL, expected(variant, "train.log_sigma_x2"))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("batch", ["train", "train_nopad"])
def test_losses_equal_lerobots(variant: str, batch: str) -> None:
    pad = PAD if batch == "train" else torch.zeros_like(PAD)
    _, loss = trained_forward(golden_model(variant), variant, pad)
    close(loss.l1, expected(variant, f"{batch}.l1_loss"), rtol=1e-4)
    close(loss.total, expected(variant, f"{batch}.loss"), rtol=1e-4)
    kl = torch.zeros(()) if variant == "no_vae" else expected(variant, f"{batch}.kld_loss")
    close(loss.kl, kl, rtol=1e-4)


def test_gradients_equal_lerobots() -> None:
    model = golden_model("")
    grads = gradients(model)
    order = json.loads((GOLDEN / "parameter_order.json").read_text())
    for name, wanted in zip(order, EXPECTED["step.grad_norms"], strict=True):
        # float32 alone moves the backbone's by 4e-4, LeRobot's against their own value in float64 too: ReLUs at zero.
        close(grads[name].norm(), wanted, atol=1e-6, rtol=1e-3 if "backbone" in name else 2e-4)
    norm = nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    close(norm, EXPECTED["step.total_grad_norm"], rtol=1e-4)


def test_backbone_is_the_second_group_with_its_own_learning_rate() -> None:
    model = golden_model("")
    rest, backbone = parameter_groups(model, 1e-4, 1e-5)
    names = {id(p): name for name, p in model.named_parameters()}
    assert (rest["lr"], backbone["lr"]) == (1e-4, 1e-5)
    assert all(names[id(p)].startswith("backbone.") for p in backbone["params"])
    assert [id(p) for p in rest["params"]] == [i for i, name in names.items() if not name.startswith("backbone.")]


def test_environment_state_is_the_third_token() -> None:
    model = Act(SMALL, 3, 2, n_cameras=0, environment_dim=4).eval()
    assert model.encoder_1d_feature_pos_embed.weight.shape == (3, 32)
    state, environment = torch.randn(2, 3), torch.randn(2, 4)
    tokens = torch.stack(
        [
            model.encoder_latent_input_proj(torch.zeros(2, 32)),
            model.encoder_robot_state_input_proj(state),
            model.encoder_env_state_input_proj(environment),
        ],
        dim=1,
    )
    place = model.encoder_1d_feature_pos_embed.weight
    chunk = model.action_head(model.decoder(model.encoder(tokens, place), place, model.decoder_pos_embed.weight))
    close(model(state, [], environment_BE=environment).actions_BCA, chunk)


def test_cameras_of_different_sizes_work_together() -> None:
    model = Act(SMALL, 3, 2, n_cameras=2).eval()
    chunk = model(torch.randn(2, 3), [torch.randn(2, 3, 32, 64), torch.randn(2, 3, 64, 32)]).actions_BCA
    assert chunk.shape == (2, 5, 2)


def test_encoder_and_decoder_start_xavier_uniform_and_the_vae_as_torch_starts_it() -> None:
    torch.manual_seed(0)
    model = Act(ActConfig(dim_model=64, dim_feedforward=256, n_encoder_layers=1, n_vae_encoder_layers=1), 6, 6, 1)
    xavier, torchs = math.sqrt(6 / (64 + 256)), math.sqrt(1 / 64)
    start = model.state_dict()
    assert 0.99 * xavier < start["encoder.layers.0.linear1.weight"].abs().max() <= xavier
    assert 0.99 * xavier < start["decoder.layers.0.linear1.weight"].abs().max() <= xavier
    assert 0.99 * torchs < start["vae_encoder.layers.0.linear1.weight"].abs().max() <= torchs
    assert start["encoder.layers.0.self_attn.in_proj_bias"].count_nonzero() == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
@pytest.mark.parametrize("use_vae", [True, False])
def test_it_compiles_into_one_graph_with_dropout(use_vae: bool) -> None:
    model = Act(changed(SMALL, dropout=0.1, use_vae=use_vae), 3, 2, n_cameras=1).train()
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    action, noise = torch.zeros(2, 5, 2), torch.zeros(2, SMALL.latent_dim)
    output = compiled(
        torch.zeros(2, 3), [torch.zeros(2, 3, 32, 40)], action, torch.zeros(2, 5, dtype=torch.bool), noise
    )
    assert output.actions_BCA.shape == (2, 5, 2)
    torch.compiler.reset()


# pre_norm, gelu and deeper decoders have no golden numbers: they are held against torch's own layers.


def copy_into(theirs: nn.Module, ours: nn.Module) -> None:
    theirs.load_state_dict(ours.state_dict())


def scrambled(module: nn.Module) -> nn.Module:
    """Give biases and norms values of their own, so that none can be mixed up with another."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_encoder_equals_torchs_own_layers(activation: Literal["relu", "gelu"], pre_norm: bool) -> None:
    config = changed(SMALL, feedforward_activation=activation, pre_norm=pre_norm)
    encoder = scrambled(Encoder(config, 2))
    norm = nn.LayerNorm(32) if pre_norm else None
    layer = nn.TransformerEncoderLayer(32, 4, 48, 0.0, activation, batch_first=True, norm_first=pre_norm)
    theirs = nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False).eval()
    copy_into(theirs, encoder)
    x, pad = torch.randn(3, 7, 32), torch.arange(7) >= torch.tensor([[7], [5], [3]])
    ours = encoder(x, torch.zeros(7, 32), mask=~pad[:, None, None])  # torch's layers know no positions
    torch.testing.assert_close(ours, theirs(x, src_key_padding_mask=pad), atol=1e-5, rtol=0)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_decoder_equals_one_written_with_torchs_attention(
    activation: Literal["relu", "gelu"], pre_norm: bool, n_layers: int
) -> None:
    config = changed(SMALL, feedforward_activation=activation, pre_norm=pre_norm, n_decoder_layers=n_layers)
    decoder = scrambled(Decoder(config))
    memory, memory_place, place = torch.randn(3, 7, 32), torch.randn(7, 32), torch.randn(5, 32)
    x = torch.zeros(3, 5, 32)
    activate = F.relu if activation == "relu" else F.gelu
    for layer in decoder.get_submodule("layers").children():
        parts: Any = layer
        attentions = [nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(2)]
        copy_into(attentions[0], parts.self_attn)
        copy_into(attentions[1], parts.multihead_attn)
        y = parts.norm1(x) if pre_norm else x
        x = x + attentions[0](y + place, y + place, y)[0]
        x = x if pre_norm else parts.norm1(x)
        y = parts.norm2(x) if pre_norm else x
        x = x + attentions[1](y + place, memory + memory_place, memory)[0]
        x = x if pre_norm else parts.norm2(x)
        y = parts.norm3(x) if pre_norm else x
        x = x + parts.linear2(activate(parts.linear1(y)))
        x = x if pre_norm else parts.norm3(x)
    close(decoder(memory, memory_place, place), decoder.get_submodule("norm")(x))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_vae_token_is_the_same_when_the_last_layer_leaves_the_others_out(pre_norm: bool) -> None:
    encoder = scrambled(Encoder(changed(SMALL, pre_norm=pre_norm), 2))
    x, place, mask = torch.randn(3, 7, 32), torch.randn(7, 32), torch.rand(3, 1, 1, 7) > 0.3
    mask[..., 0] = True
    close(encoder(x, place, mask, n_out=1), encoder(x, place, mask)[:, :1])


def test_attention_with_dropout_has_the_mean_of_attention_without() -> None:
    torch.manual_seed(0)
    attention = scrambled(Attention(changed(SMALL, dropout=0.3)))
    x = torch.randn(1, 6, 32)
    mask = torch.tensor([[True] * 4 + [False] * 2])
    still = attention(x, x, x, mask)
    many = x.expand(20_000, -1, -1)
    shaken = attention.train()(many, many, many, mask)
    assert (shaken[0] - still[0]).abs().max() > 0.01
    close(shaken.mean(dim=0, keepdim=True), still, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_zeroes_its_share_and_keeps_the_mean(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(999, 1001, dtype=dtype, requires_grad=True)
    y = drop(x, 0.1)
    assert y.dtype == dtype
    assert (y == 0).float().mean().item() == pytest.approx(0.1, abs=2e-3)
    assert y.max().item() == pytest.approx(1 / 0.9, rel=5e-3)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, y)


def test_dropout_draws_every_element_on_its_own() -> None:
    torch.manual_seed(0)
    kept = (drop(torch.ones(4000, 100), 0.5) > 0).float()
    correlation = torch.corrcoef(kept.T) - torch.eye(100)
    assert correlation.abs().max() < 0.1


def test_training_works_after_a_prediction_in_inference_mode() -> None:
    model = Act(SMALL, 3, 2, n_cameras=1)
    state, image = torch.randn(2, 3), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        model(state, [image])
    model(state, [image]).actions_BCA.sum().backward()
    assert all(p.grad is not None for p in model.backbone_parameters())


def test_autocast_computes_nearly_the_same() -> None:
    model = golden_model("")
    with torch.autocast("cpu", torch.bfloat16):
        _, loss = trained_forward(model, "")
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert loss.total.dtype == torch.float32
    close(loss.total, EXPECTED["train.loss"], rtol=0.05)
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    close(norm, EXPECTED["step.total_grad_norm"], rtol=0.1)


# The backbone


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [
        ("resnet18", 11_689_512 - 513_000, 512),
        ("resnet34", 21_797_672 - 513_000, 512),
        ("resnet50", 23_508_032, 2048),
    ],
)
def test_backbone_has_torchvisions_size_and_divides_the_image_by_32(name: str, size: int, channels: int) -> None:
    backbone = ResNet(name)
    assert sum(w.numel() for key, w in backbone.state_dict().items() if "running" not in key) == size
    with torch.inference_mode():
        features = backbone(torch.randn(1, 3, 70, 96))
    assert features.shape == (1, backbone.channels, 3, 3) == (1, channels, 3, 3)


def test_a_bottleneck_has_its_stride_in_the_middle_as_torchvision_has() -> None:
    block, x = ResNet("resnet50").get_submodule("layer2.0"), torch.randn(1, 256, 8, 8).relu()
    w = dict(block.named_parameters())
    y = F.conv2d(x, w["conv1.weight"]).relu()
    y = F.conv2d(y, w["conv2.weight"], stride=2, padding=1).relu()
    skip = F.conv2d(x, w["downsample.0.weight"], stride=2)
    wanted = (F.conv2d(y, w["conv3.weight"]) + skip).relu()
    close(block(x), wanted, atol=1e-3, rtol=1e-3)  # new norms change nothing but their epsilon


NAMED = "ResNet18_Weights.IMAGENET1K_V1"


def published_weights(name: str = "resnet18") -> dict[str, Tensor]:
    """Weights as torchvision publishes them: with a classifier and counters we have no use for."""
    with torch.device("meta"):
        shapes = {key: w.shape for key, w in ResNet(name).state_dict().items()}
    weights = {key: torch.full(shape, float(i)) for i, (key, shape) in enumerate(shapes.items())}
    return weights | {"fc.weight": torch.rand(9, 512), "bn1.num_batches_tracked": torch.tensor(5)}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which torch.hub keeps the weights of NAMED; nothing can be downloaded."""
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints" / "resnet18-f37072fd.pth"


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", NAMED])
def test_backbone_weights_come_from_a_local_file_or_torch_hubs_cache(name: str, hub: Path, tmp_path: Path) -> None:
    published, path = published_weights(), hub if name == NAMED else tmp_path / name
    save_file(published, path) if path.suffix == ".safetensors" else torch.save(published, path)
    backbone = ResNet("resnet18")
    load_backbone_weights(backbone, name if name == NAMED else str(path))
    assert all(torch.equal(w, published[key]) for key, w in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (NAMED, r"cannot be read .*; download https://.*resnet18.*path of the file"),
        ("ResNet18_Weights.BEST", rf"no such file and no known name.*{NAMED}"),
        ("damaged.pth", r"damaged\.pth: cannot be read"),
        ("damaged.safetensors", r"damaged\.safetensors: cannot be read"),
    ],
)
def test_weights_that_cannot_be_read_name_the_way_out(source: str, words: str, hub: Path, tmp_path: Path) -> None:
    if source.startswith("damaged"):
        (tmp_path / source).write_bytes(b"not weights at all")
        source = str(tmp_path / source)
    for cache in (None, b"half a download"):
        if cache:
            hub.write_bytes(cache)
        with pytest.raises(UserError, match=words):
            load_backbone_weights(ResNet("resnet18"), source)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda w: w.update({"layer1.0.conv1.weight": torch.zeros(64, 64, 5, 5)}),
            r"layer1\.0\.conv1\.weight is \(64, 64, 5, 5\), expected \(64, 64, 3, 3\)",
        ),
        (
            lambda w: w.update(published_weights("resnet34")),
            r"layer1\.2\.bn1\.bias is \(64,\), expected no such tensor",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    change: Callable[[dict[str, Tensor]], object], words: str, tmp_path: Path
) -> None:
    published = published_weights()
    change(published)
    torch.save(published, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=words):
        load_backbone_weights(ResNet("resnet18"), str(tmp_path / "weights.pth"))
