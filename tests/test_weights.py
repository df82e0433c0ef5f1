"""Weight files: what is packaged is what its card says, and what does not fit is refused in one sentence."""

import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tectum
from tectum.errors import UserError
from tectum.models import SYSTEMS
from tectum.models.tdfusion import LossGenerator, TDFusion
from tectum.pretrained import loading as weights
from tectum.pretrained.conversion import convert

Perturb = Callable[..., nn.Module]
Images = Callable[..., tuple[Tensor, ...]]
State = dict[str, Tensor]


@pytest.fixture
def state(perturb: Perturb) -> State:
    return perturb(TDFusion()).state_dict()


@pytest.fixture
def good(state: State, tmp_path: Path) -> Path:
    """A weight file of tdfusion."""
    weights.save_weights(state, tmp_path / "good.safetensors")
    return tmp_path / "good.safetensors"


def sentence(error: BaseException) -> str:
    """The message of a refusal: one line that says what to do, not a dump."""
    message = str(error)
    assert message and "\n" not in message and len(message) < 400, message
    assert ";" in message, f"says what is wrong but not what to do: {message}"
    return message


def refused(call: Callable[..., object], *args: Any, says: str, kind: type[Exception] = ValueError) -> None:
    with pytest.raises(kind) as caught:
        call(*args)
    assert re.search(says, sentence(caught.value)), str(caught.value)


# ---- the packaged sets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(weights.cards()))
def test_a_packaged_set_is_what_its_card_says(name: str, images: Images) -> None:
    card = weights.cards()[name]
    assert {"system", "file", "sha256", "data", "recipe", "seconds", "scores", "licence", "date"} <= card.keys()
    assert all(card[field] for field in ("data", "recipe", "licence"))
    assert card["seconds"] > 0 and isinstance(card["scores"], dict) and card["scores"]
    assert date.fromisoformat(card["date"]) >= date(2020, 1, 1)
    path = weights.FOLDER / card["file"]
    assert path.is_file() and path.suffix == ".safetensors" and path.parent == weights.FOLDER
    assert path.stat().st_size < 10_000_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() == card["sha256"]

    a, b = images(20, 24)
    by_name = weights.load(name)
    assert type(by_name) is SYSTEMS[card["system"]].fuser
    fused = weights.load(card["system"], name)(a, b)
    assert torch.equal(fused, by_name(a, b))
    torch.manual_seed(0)
    untrained = SYSTEMS[card["system"]].fuser()
    target = torch.maximum(a, b)
    assert (fused - target).abs().mean() < (untrained(a, b) - target).abs().mean(), "it must have learned something"


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_a_default_is_packaged_or_its_lack_is_said(system: str, images: Images) -> None:
    default = SYSTEMS[system].weights
    assert weights.select(system).weights == default
    if default is None and list(SYSTEMS[system].fuser().parameters()):
        with pytest.raises(ValueError, match=f"system '{system}' has no packaged weights; name a .safetensors file"):
            weights.load(system)
    elif default is not None:
        assert weights.cards()[default]["system"] in (system, system.removesuffix("-published"))
        assert not weights.load(system).training
        assert torch.equal(weights.load(system)(*images(8, 8)), weights.load(system, default)(*images(8, 8)))


def test_nothing_lies_beside_the_cards_without_one() -> None:
    files = {path.name for path in weights.FOLDER.iterdir() if path.suffix in (".safetensors", ".pt", ".pth", ".npz")}
    losses = {card["objective"]["file"] for card in weights.cards().values() if "objective" in card}
    assert files == {card["file"] for card in weights.cards().values()} | losses


@pytest.fixture
def packaged(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packaged weights with one set, `tiny-night`."""
    folder = tmp_path / "packaged"
    folder.mkdir()
    shutil.copy(good, folder / "tiny-night.safetensors")
    digest = hashlib.sha256(good.read_bytes()).hexdigest()
    card = {"system": "tdfusion", "file": "tiny-night.safetensors", "sha256": digest}
    (folder / "cards.json").write_text(json.dumps({"tiny-night": card}))
    monkeypatch.setattr(weights, "FOLDER", folder)
    return folder


def test_a_set_is_found_by_its_name(packaged: Path, state: State) -> None:
    for fuser in (weights.load("tiny-night"), weights.load("tdfusion", "tiny-night"), tectum.load("tiny-night")):
        assert all(torch.equal(state[name], x) for name, x in fuser.state_dict().items())


def test_a_file_that_is_not_the_cards_is_refused(packaged: Path, state: State) -> None:
    state["output.weight"][0, 0, 0, 0] += 1e-6
    weights.save_weights(state, packaged / "tiny-night.safetensors")
    refused(weights.load, "tiny-night", says=r"tiny-night.safetensors is not the file its card describes \(SHA-256")
    assert weights.load("tdfusion", packaged / "tiny-night.safetensors"), "by its path it is a file like any other"


def test_a_set_of_another_system_is_refused(packaged: Path) -> None:
    refused(weights.load, "average", "tiny-night", says="'tiny-night' are of system 'tdfusion', not 'average'")


@pytest.mark.parametrize(
    ("system", "name", "says"),
    [
        (
            "tdfuson",
            None,
            r"unknown system 'tdfuson'; did you mean 'tdfusion'\? available: adasffuse, adasffuse-published, average",
        ),
        ("xyz", None, "unknown system 'xyz'; available: adasffuse, adasffuse-published, average"),
        ("tdfusion", "tiny-nihgt", "unknown weights 'tiny-nihgt'; did you mean 'tiny-night'.*or give a .safetensors"),
        ("no.such.module:Fuser", None, "'no.such.module:Fuser' must be importable"),
        ("torch.nn:NoSuchThing", None, "'torch.nn:NoSuchThing' must be importable"),
    ],
)
def test_unknown_names_offer_the_closest(packaged: Path, system: str, name: str | None, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        weights.load(system, name)


# ---- loading ---------------------------------------------------------------------------------------------------------


def test_a_loaded_fuser_is_ready(good: Path) -> None:
    fuser = weights.load("tdfusion", good)
    assert not fuser.training and not any(p.requires_grad for p in fuser.parameters())
    assert {p.dtype for p in fuser.parameters()} == {torch.float32}
    half = weights.load("tdfusion", str(good), dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    refused(
        lambda: weights.load("tdfusion", good, dtype="bfloat"), says="unknown dtype 'bfloat'; did you mean 'bfloat16'"
    )


def test_device_and_dtype_may_be_torch_objects() -> None:
    fuser = weights.load("tdfusion", device=torch.device("cpu"), dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in fuser.parameters()} == {("cpu", torch.bfloat16)}
    refused(
        lambda: weights.load("average", dtype=torch.float16), says="unknown dtype 'float16'; did you mean 'bfloat16'"
    )
    with pytest.raises(ValueError, match="device must be one of auto, cpu, cuda, mps, got 'meta'"):
        weights.load("average", device=torch.device("meta"))


def test_a_trainable_fuser_has_gradients(images: Images) -> None:
    fuser = weights.load("tdfusion", trainable=True)
    assert fuser.training and all(p.requires_grad for p in fuser.parameters())
    fuser(*images(8, 8)).sum().backward()
    assert all(p.grad is not None for p in fuser.parameters())


@pytest.mark.parametrize("name", ["tdfusion", "average"])
@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8), r"must be luminances \(B,1,H,W\), got \(1, 3, 8, 8\) and"),
        (torch.zeros(8, 8), torch.zeros(8, 8), "must be luminances"),
        (torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 9), "must share one shape"),
        (torch.zeros(1, 1, 8, 8).byte(), torch.zeros(1, 1, 8, 8).byte(), "must be floating point"),
        (np.zeros((1, 1, 8, 8)), torch.zeros(1, 1, 8, 8), "must be tensors .* got ndarray and Tensor"),
    ],
)
def test_a_loaded_fuser_refuses_what_it_cannot_fuse(name: str, a: Any, b: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        weights.load(name)(a, b)


def test_a_loaded_fuser_refuses_numbers_of_another_type() -> None:
    image = torch.zeros(1, 1, 8, 8)
    with pytest.raises(UserError, match=r"cpu and torch.bfloat16, got cpu and torch.float32; move them, or load with"):
        weights.load("tdfusion", dtype="bfloat16")(image, image)


def test_a_loaded_fuser_can_be_exported_and_differentiated(images: Images) -> None:
    fuser, (a, b) = weights.load("tdfusion", device="cpu"), images(12, 15)
    sizes = {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    program = torch.export.export(fuser, (a, b), dynamic_shapes=(sizes, sizes)).module()
    c, d = images(9, 20, seed=1)
    torch.testing.assert_close(program(c, d), fuser(c, d), rtol=0, atol=1e-6)
    parameters = dict(fuser.named_parameters())
    fused, tangent = torch.func.jvp(
        lambda p: torch.func.functional_call(fuser, p, (a, b)),
        (parameters,),
        ({k: torch.ones_like(p) for k, p in parameters.items()},),
    )
    assert fused.shape == tangent.shape and float(tangent.abs().max()) > 0


# ---- choosing --------------------------------------------------------------------------------------------------------


def test_packaged_weights_and_kinds_choose_their_system() -> None:
    assert weights.select().system == "tdfusion" and weights.select().weights == "tdfusion-fixed-msrs"
    assert weights.select(kind="MEF").system == "exposure-pyramid" and weights.select(kind="MEF").kind == "exposure"
    assert weights.select(kind="focus").system == "focus-selection" and weights.select(kind="focus").weights is None
    for kind in ("exposure", "focus", "medical"):
        assert weights.select("adasffuse", kind=kind).weights == f"adasffuse-{kind}"
    assert weights.select(kind="medical").weights == "adasffuse-medical"
    own = weights.FOLDER / "adasffuse-focus.safetensors"
    assert weights.select(kind="focus", weights=own).system == "adasffuse"
    assert weights.select(weights=weights.FOLDER / "tdfusion-msrs.safetensors").system == "tdfusion"
    assert weights.select("tomiff", kind="exposure").weights == "tomiff-fixed-msrs"
    for chosen in (
        weights.select(None, "tomiff-msrs"),
        weights.select("tomiff-msrs"),
        weights.select("tomiff", "tomiff-msrs"),
    ):
        assert (chosen.system, chosen.weights) == ("tomiff", "tomiff-msrs")
        assert chosen.identity() == f"tomiff-msrs {weights.cards()['tomiff-msrs']['sha256'][:12]}"
    assert weights.select("average").identity() is None


def test_a_published_variant_is_a_system_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    state = SYSTEMS["tomiff-published"].fuser().state_dict()
    weights.save_weights(state, file)
    for given in ({"system": "tomiff-published"}, {"system": "tomiff", "variant": "published"}):
        assert weights.select(**given, weights=file).system == "tomiff-published"
        assert weights.load(**given, weights=file).state_dict().keys() == state.keys()
        refused(lambda given=given: weights.load(**given), says="'tomiff-published' has no packaged weights; name a")
        refused(lambda given=given: weights.load(**given, weights="tomiff-msrs"), says="are of system 'tomiff', not")
    assert weights.select("tomiff-published", variant="repaired").system == "tomiff"
    assert weights.select("tdfusion", "tdfusion-msrs", variant="published").system == "tdfusion-published"
    refused(lambda: weights.select("average", variant="published"), says="system 'average' has no variant 'published'")
    refused(lambda: weights.select("tomiff", variant="publshed"), says="'publshed'; did you mean 'published'?")
    for given in (torch.nn.Identity(), torch.nn.Identity):
        refused(weights.load, given, says="system must be a name or package.module:Class, got")
    refused(lambda: weights.select("tomif", variant="published"), says="unknown system 'tomif-published'; did you mean")


def test_a_checkpoint_of_any_system_is_converted(tmp_path: Path) -> None:
    state = SYSTEMS["tomiff-published"].fuser().state_dict()
    torch.save({"model": state, "optimizer": {"step": torch.zeros(1)}}, tmp_path / "own.pth")
    convert(tmp_path / "own.pth", tmp_path / "own.safetensors", "tomiff", variant="published")
    loaded = weights.load("tomiff-published", tmp_path / "own.safetensors").state_dict()
    assert all(torch.equal(loaded[name], x) for name, x in state.items())
    refused(
        convert,
        tmp_path / "own.pth",
        tmp_path / "x.safetensors",
        "tomiff",
        says="own.pth does not hold weights of TOMIFF",
    )


class Own(nn.Module):
    """A fuser of a user's own, found as `module:Own`."""

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor([0.5]))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.share * a + (1 - self.share) * b


def test_a_class_of_ones_own(tmp_path: Path) -> None:
    name = f"{Own.__module__}:Own"
    save_file({"share": torch.tensor([0.25])}, tmp_path / "own.safetensors")
    fuser = weights.load(name, tmp_path / "own.safetensors")
    assert float(fuser(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))) == 0.25
    refused(weights.load, name, says="has no packaged weights; name a .safetensors file")


def test_what_is_saved_is_hashed(state: State, tmp_path: Path) -> None:
    views = {name: x.mT if x.dim() == 4 else x for name, x in state.items()}  # not contiguous
    digest = weights.save_weights(views, tmp_path / "x.safetensors")
    assert digest == hashlib.sha256((tmp_path / "x.safetensors").read_bytes()).hexdigest()
    assert all(torch.equal(x, views[name]) for name, x in load_file(tmp_path / "x.safetensors").items())


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("none.safetensors", "folder.safetensors"):
        refused(weights.load, "tdfusion", tmp_path / name, says=f"{name} is none; check", kind=FileNotFoundError)


Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "empty": lambda content: b"",
    "three bytes": lambda content: content[:3],
    "cut in the header": lambda content: content[:100],
    "cut in the numbers": lambda content: content[:-1000],
    "longer": lambda content: content + b"more",
    "another header": lambda content: content[:8] + b"x" * 200 + content[208:],
    "a huge header": lambda content: b"\xff" * 8 + content[8:],
    "text": lambda content: b"<html>404 not found</html>" * 100,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused(good: Path, damage: str) -> None:
    good.write_bytes(DAMAGES[damage](good.read_bytes()))
    refused(
        weights.load, "tdfusion", good, says="good.safetensors is not a readable safetensors file .*; train or down"
    )


def lacks_one(state: State) -> None:
    del state["fusion.gates.weight"]


def has_another(state: State) -> None:
    state["fusion.gates.bias"] = torch.zeros(128)


def has_another_shape(state: State) -> None:
    state["output.weight"] = torch.zeros(2, 16, 3, 3)


def is_another_network(state: State) -> None:
    state.clear()
    state.update(LossGenerator().state_dict())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lacks_one, r"weights of TDFusion: it lacks fusion.gates.weight; choose the matching --system"),
        (has_another, "it has an unknown fusion.gates.bias;"),
        (has_another_shape, r"output.weight is \(2, 16, 3, 3\) instead of \(1, 16, 3, 3\);"),
        (is_another_network, "does not hold weights of TDFusion: .* and [0-9]+ more;"),
    ],
)
def test_weights_of_another_network_are_refused(
    state: State, tmp_path: Path, change: Callable[[State], None], says: str
) -> None:
    change(state)
    weights.save_weights(state, tmp_path / "other.safetensors")
    refused(weights.load, "tdfusion", tmp_path / "other.safetensors", says=says)


def test_weights_for_a_system_without_any_are_refused(good: Path) -> None:
    refused(weights.load, "average", good, says="does not hold weights of Average")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(state: State, tmp_path: Path, value: float) -> None:
    state["decoder.1.norm2.bias"][3] = value
    weights.save_weights(state, tmp_path / "bad.safetensors")
    refused(weights.load, "tdfusion", tmp_path / "bad.safetensors", says="bad.safetensors holds values .* not finite;")


# ---- pickles ---------------------------------------------------------------------------------------------------------


class Malicious:
    """Unpickling this writes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.fixture(params=["plain pickle", "torch.save", "old torch.save", "npz"])
def malicious(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A file that creates another one when it is unpickled; both paths."""
    source, trace = tmp_path / "theirs", tmp_path / "executed"
    content = {"output.weight": Malicious(trace)}
    if request.param == "npz":
        with source.open("wb") as file:
            np.savez(file, weight=np.array([content], dtype=object))
    elif request.param == "plain pickle":
        source.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, source, _use_new_zipfile_serialization=request.param == "torch.save")
    return source, trace


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".npz", ".safetensors", ""])
def test_nothing_is_unpickled(malicious: tuple[Path, Path], suffix: str, tmp_path: Path) -> None:
    source, trace = malicious
    source = source.rename(source.with_suffix(suffix))
    with pytest.raises(ValueError):
        weights.load("tdfusion", source)
    with pytest.raises(ValueError):
        convert(source, tmp_path / "out.safetensors")
    assert not trace.exists(), "code of a checkpoint was run"
    assert not (tmp_path / "out.safetensors").exists()


def test_the_malicious_file_would_do_it(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Malicious(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt"])
def test_a_checkpoint_is_not_loaded_but_converted(state: State, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"theirs{suffix}"
    torch.save(state, path)
    refused(
        weights.load, "tdfusion", path, says=f"PyTorch checkpoint, .*; convert it first: tectum weights convert {path}"
    )


# ---- converting (that the result is right is in test_systems.py) -----------------------------------------------------


def test_the_source_must_exist_and_the_target_be_safetensors(good: Path, tmp_path: Path) -> None:
    refused(convert, tmp_path / "no.pth", tmp_path / "x.safetensors", says="no.pth", kind=FileNotFoundError)
    torch.save({}, tmp_path / "a.pth")
    refused(convert, tmp_path / "a.pth", tmp_path / "x.pth", says="written as .safetensors, got x.pth; rename")


CONTENTS: dict[str, Callable[[State], Any]] = {
    "an empty dict": lambda state: {},
    "a list": lambda state: [1, 2],
    "a tensor": lambda state: torch.zeros(3),
    "dicts without tensors": lambda state: {"epoch": 1, "more": {"lr": 0.1}},
    "half a network": lambda state: dict(list(state.items())[::2]),
    "another network": lambda state: LossGenerator().state_dict(),
    "keys that are not names": lambda state: dict(enumerate(state.values())),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_checkpoints_of_something_else_are_refused(state: State, tmp_path: Path, content: str) -> None:
    torch.save(CONTENTS[content](state), tmp_path / "theirs.pth")
    refused(convert, tmp_path / "theirs.pth", tmp_path / "x.safetensors", says="theirs.pth")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_training_checkpoint_gives_its_network_wherever_it_lies(
    literal: Any, perturb: Perturb, tmp_path: Path
) -> None:
    """Beside the optimiser's state, which comes first in the file."""
    network = perturb(literal.LiteralTDFusion())
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    torch.save({"epoch": 3, "optimizer": optimizer.state_dict(), "model": network.state_dict()}, tmp_path / "run.pth")
    assert convert(tmp_path / "run.pth", tmp_path / "x.safetensors") == 59_856


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
@pytest.mark.parametrize("suffix", [".pth", ".npz"])
def test_damaged_checkpoints_are_refused(state: State, tmp_path: Path, suffix: str, damage: str) -> None:
    source = tmp_path / f"theirs{suffix}"
    if suffix == ".npz":
        np.savez(source, **{name: x.numpy() for name, x in state.items()})
    else:
        torch.save(state, source)
    content = source.read_bytes()
    source.write_bytes({"cut": content[:-500], "text": b"<html>not found</html>", "empty": b""}[damage])
    refused(convert, source, tmp_path / "x.safetensors", says="theirs")
    assert not (tmp_path / "x.safetensors").exists()
