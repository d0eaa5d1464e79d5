"""Features in the model's graph, against numpy on captured activations; edits of them, against injected activations.

python -m pytest tests/integration/test_dictionaries.py
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroscope import Client, Hook, Intervention, edit, replace
from neuroscope.calls.dictionaries import LoadedDictionary
from neuroscope.errors import (
    IdTakenError,
    InvalidRequestError,
    MLXIntegrationError,
    ModelCorruptError,
    ModelNotFoundError,
    ModelUnsupportedError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableSiteError,
    UnknownIdError,
    UnknownSiteError,
)
from neuroscope.experiments import EACH, log_prob, logit_diff, other_run, together
from neuroscope.v1 import intervention_pb2, site_pb2
from tests.support.numpy_dictionary import FEATURES, NumpyDictionary, make
from tests.support.random_models import FAMILIES

IDS = [0, *np.random.default_rng(7).integers(5, 500, 11).tolist()]
OTHER_IDS = [0, *np.random.default_rng(8).integers(5, 500, 11).tolist()]
METRIC = logit_diff(7, 9)
WIDTH = 128
RESID = "blocks.2.hook_resid_post"
KINDS: dict[str, dict[str, Any]] = {
    "standard": {},
    "jumprelu": {},
    "topk": {},
    "gated": {},
    "batchtopk": {},
    "layer_norm": {"architecture": "standard", "normalize_activations": "layer_norm"},
    "constant_norm": {"architecture": "jumprelu", "normalize_activations": "constant_norm_rescale"},
    "no_input_bias": {"architecture": "standard", "apply_b_dec_to_input": False},
    "transcoder": {},
    "skip_transcoder": {},
    "jumprelu_transcoder": {},
}


def dictionary_of(kind: str) -> NumpyDictionary:
    options = dict(KINDS[kind])
    architecture = options.pop("architecture", kind)
    if "transcoder" in architecture:
        return make(architecture, "blocks.1.mlp.hook_in", WIDTH, hook_name_out="blocks.1.hook_mlp_out", **options)
    return make(architecture, RESID, WIDTH, **options)


@pytest.fixture(scope="module")
def client(llama_dir: Path, gpt2_dir: Path) -> Iterator[Client]:
    with Client.local(model=[str(llama_dir), str(gpt2_dir)]) as client:
        yield client


@pytest.fixture(scope="module")
def loaded(client: Client, tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedDictionary]:
    """One of each kind, written by hand in SAELens' layout."""
    folder = tmp_path_factory.mktemp("dictionaries")
    return {kind: client.dictionaries.load(dictionary_of(kind).write(folder / kind)) for kind in KINDS}


def captured(client: Client, sae: LoadedDictionary, **how: Any) -> dict[str, Any]:
    """Everything that a hook can ask of a dictionary, and the activations."""
    asked = {"features": {"dictionary_id": sae.dictionary_id, "top_count": 9, "all": True, "l0": True, "error": True}}
    read, written = sae.point, sae.output
    hooks = [
        Hook("", reduce=asked, hook_id="features"),
        Hook(read.component, read.layer, is_input=read.is_input, hook_id="read"),
        Hook(written.component, written.layer, is_input=written.is_input, hook_id="written"),
    ]
    cache = client.capture(IDS, hooks if read != written else hooks[:2], **how)
    names = ("top_features", "top_features_indices", "features", "features_l0")
    names += ("features_squared_error", "features_squared_norm")
    found = {name: np.asarray(cache[f"{read}:{name}"][0]) for name in names}
    return found | {"read": cache["read"][0], "written": cache["written" if read != written else "read"][0]}


def close(found: Any, expected: Any, tolerance: float = 5e-6) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * max(np.abs(expected).max(), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_numpy_on_the_captured_activation(
    client: Client, loaded: dict[str, LoadedDictionary], kind: str
) -> None:
    referee, found = dictionary_of(kind), captured(client, loaded[kind])
    features = referee.encode(found["read"])
    assert 0 < (features > 0).mean() < 0.8
    close(found["features"], features)
    assert (found["features_l0"] == (features > 0).sum(axis=-1)).all()
    missed = found["written"] - referee.decode(features, found["read"])
    close(found["features_squared_error"], np.square(missed).sum(axis=-1))
    close(found["features_squared_norm"], np.square(found["written"].astype(np.float64)).sum(axis=-1))
    order = np.argsort(-features, axis=-1, kind="stable")[:, :9]
    values = np.take_along_axis(features, order, axis=-1)
    close(found["top_features"], values)
    assert (found["top_features_indices"] == np.where(values > 0, order, -1)).all()


def test_features_of_every_step_are_those_of_the_activation_there(
    client: Client, loaded: dict[str, LoadedDictionary]
) -> None:
    sae, referee = loaded["jumprelu"], dictionary_of("jumprelu")
    hooks = [sae.hook(top=5, features=[3, 41], positions=slice(4, None)), Hook("resid_post", 2)]
    with client.generate([IDS, IDS[:9]], hooks=hooks, max_tokens=5, ignore_eos=True) as generation:
        generation.wait()
    for row, ids in enumerate((IDS, IDS[:9])):
        cache = generation.cache.row(row)
        features = referee.encode(cache["resid_post", 2][0])[4:]
        assert len(features) == len(ids) + 4 - 4
        close(cache["resid_post.2:features"][0], features[:, [3, 41]])
        close(cache["resid_post.2:top_features"][0], -np.sort(-features, axis=-1)[:, :5])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["ablate", "clamp", "scale", "add", "all", "reconstruct"])
def test_edits_give_what_the_edited_activation_gives_when_it_is_injected(
    client: Client, loaded: dict[str, LoadedDictionary], kind: str, how: str
) -> None:
    sae, referee = loaded[kind], dictionary_of(kind)
    found = captured(client, sae)
    active = [int(f) for f in found["top_features_indices"][-1, :3]] + [0]
    active = sorted({f for f in active if f >= 0})
    edits: dict[str, tuple[Intervention, Any]] = {
        "ablate": (sae.ablate(active), 0.0),
        "clamp": (sae.clamp(active, 3.5), 3.5),
        "scale": (sae.scale(active, -2.0), -2.0),
        "add": (sae.add(active[0], 1.5), 1.5),
        "all": (sae.scale([], 0.5), 0.5),
        "reconstruct": (sae.reconstruct(), None),
    }
    intervention, number = edits[how]

    def change(features: Any) -> Any:
        new = features.copy()
        if how in ("ablate", "clamp"):
            new[:, active] = number
        elif how == "scale":
            new[:, active] *= number
        elif how == "add":
            new[:, active[0]] += number
        else:
            new *= number
        return new

    if how == "reconstruct":
        expected = referee.decode(referee.encode(found["read"]), found["read"])
    else:
        expected = referee.changed(found["written"], found["read"], change)
    site = str(sae.output)
    injected = client.capture(
        IDS, ["logits", site], interventions=[replace(site, None, expected[None].astype(np.float32))]
    )
    edited = client.capture(IDS, ["logits", site], interventions=[intervention])
    close(edited[site], injected[site])
    close(edited["logits"], injected["logits"], 2e-5)
    unedited = client.capture(IDS, ["logits"])
    assert np.abs(np.subtract(edited["logits"], unedited["logits"])).max() > 1e-3


def test_a_clamped_feature_is_seen_when_captured_after(client: Client, loaded: dict[str, LoadedDictionary]) -> None:
    """In the tied direction: a feature whose decoder row is all that its encoder column reads."""
    referee = make("standard", RESID, WIDTH, apply_b_dec_to_input=False)
    orthogonal = np.linalg.qr(np.random.default_rng(1).standard_normal((WIDTH, FEATURES)))[0].astype(np.float32)
    tensors = referee.tensors | {"W_enc": orthogonal, "W_dec": np.ascontiguousarray(orthogonal.T)}
    tensors["b_enc"] = np.zeros(FEATURES, np.float32)
    sae = client.dictionaries.load(dictionary_id="tied", configuration=referee.configuration, tensors=tensors)
    seen = client.capture(IDS, [sae.hook(all=True)], interventions=[sae.clamp([5, 6], 4.25, positions=[2, -1])])
    features = seen["resid_post.2:features"][0]
    plain = client.capture(IDS, [sae.hook(all=True)])["resid_post.2:features"][0]
    close(features[[2, -1]][:, [5, 6]], np.full((2, 2), 4.25))
    others = [f for f in range(FEATURES) if f not in (5, 6)]
    close(features[:, others], plain[:, others])
    close(features[[0, 1, 3]], plain[[0, 1, 3]])
    client.dictionaries.unload("tied")


def test_edits_go_on_in_every_step_of_a_generation(client: Client, loaded: dict[str, LoadedDictionary]) -> None:
    """Against one capture of all the tokens with the same edit; the transcoder's input is that of the step."""
    for kind in ("topk", "skip_transcoder"):
        sae = loaded[kind]
        edits = [sae.clamp([1, 2, 30], 2.0), sae.scale([], 0.5)]
        site = str(sae.output)
        with client.generate(
            [IDS, IDS[:7]], hooks=[site], interventions=edits, max_tokens=5, ignore_eos=True
        ) as generation:
            tokens: dict[int, list[int]] = {0: [], 1: []}
            for token in generation:
                tokens[token.row].append(token.token_id)
        for row, ids in enumerate((IDS, IDS[:7])):
            whole = client.capture([*ids, *tokens[row][:-1]], [site], interventions=edits)
            close(generation.cache.row(row)[site], whole[site], 2e-5)


def test_an_inactive_feature_that_is_ablated_changes_no_bit(
    client: Client, loaded: dict[str, LoadedDictionary]
) -> None:
    sae = loaded["jumprelu"]
    found = captured(client, sae)["features"]
    idle = [int(f) for f in np.flatnonzero((found == 0).all(axis=0))]
    assert idle
    plain = client.capture(IDS, ["logits"])["logits"]
    assert (client.capture(IDS, ["logits"], interventions=[sae.ablate(idle)])["logits"] == plain).all()


def test_what_the_sdk_shows_of_features(client: Client, loaded: dict[str, LoadedDictionary], tmp_path: Path) -> None:
    sae, referee = loaded["jumprelu"], dictionary_of("jumprelu")
    seen = sae.features(IDS, top=FEATURES)
    x = client.capture(IDS, ["resid_post.2"])["resid_post", 2][0].astype(np.float64)
    features = referee.encode(x)
    missed = x - referee.decode(features, x)
    fvu = np.square(missed).sum() / np.square(x - x.mean(axis=0)).sum()
    assert seen.fvu == pytest.approx(fvu, rel=1e-4)
    assert seen.active() == [int(f) for f in np.argsort(-features.max(axis=0)) if features[:, f].any()]
    assert set(seen.active(3)) == set(np.flatnonzero(features[3]).tolist())
    close(seen.of(seen.active()[0]), features[:, seen.active()[0]].astype(np.float32))
    assert [(r["position"], r["feature"]) for r in seen.records()][:1] == [(0, int(features[0].argmax()))]
    assert "jumprelu" in str(seen.table().title)
    seen.plot(tmp_path / "features.png")
    assert (tmp_path / "features.png").stat().st_size > 1000
    assert repr(sae).startswith("LoadedDictionary('jumprelu', resid_post.2 of llama, jumprelu, 48 features")


def test_sweeps_over_features_equal_edits_one_by_one(client: Client, loaded: dict[str, LoadedDictionary]) -> None:
    metric = log_prob(7)
    for kind in ("jumprelu", "transcoder"):
        sae = loaded[kind]
        active = sae.features(IDS).active()[:6]
        sweep = client.ablate(IDS).features(sae, active, positions=[3, -1]).features(sae, together(*active))
        result = sweep.run(metric=metric)
        plain = sweep.run(metric=metric, method="plain")
        scores = result[f"features={sae.dictionary_id}"]
        assert scores.dims[-2:] == ("position", "feature")
        assert list(scores.coords["feature"]) == active
        scale = np.abs(scores.values - float(scores.clean[0])).max()
        assert scale > 1e-4
        close(scores.values, plain[f"features={sae.dictionary_id}"].values, 1e-5)
        for column, feature in enumerate(active):
            edited = client.capture(IDS, ["logits"], interventions=[sae.ablate(feature, positions=-1)])["logits"][0, -1]
            expected = edited[7] - np.log(np.exp(edited.astype(np.float64)).sum())
            assert scores.sel(position=-1).values.reshape(-1)[column] == pytest.approx(expected, abs=2e-5)


def test_feature_patching_takes_the_other_runs_features(client: Client, loaded: dict[str, LoadedDictionary]) -> None:
    sae, referee = loaded["jumprelu"], dictionary_of("jumprelu")
    result = (
        client.patch(IDS, OTHER_IDS, into="clean").features(sae, EACH, positions=[-1], value=other_run()).run(METRIC)
    )
    clean, other = (client.capture(ids, ["resid_post.2"])["resid_post", 2] for ids in (IDS, OTHER_IDS))
    features, others = referee.encode(clean[0]), referee.encode(other[0])
    moved = np.flatnonzero(np.abs(others[-1] - features[-1]) > 0.05)[:3]
    assert len(moved) == 3
    for feature in moved:
        new = features.copy()
        new[-1, feature] = others[-1, feature]
        injected = referee.changed(clean[0], clean[0], lambda _, new=new: new)[None].astype(np.float32)
        logits = client.capture(IDS, ["logits"], interventions=[replace("resid_post", 2, injected)])["logits"][0, -1]
        assert result.values.reshape(-1)[feature] == pytest.approx(float(logits[7] - logits[9]), abs=2e-5)


@pytest.mark.parametrize("kind", ["jumprelu", "topk", "layer_norm", "transcoder"])
def test_attribution_is_the_slope_of_the_metric_along_a_feature(
    client: Client, loaded: dict[str, LoadedDictionary], kind: str
) -> None:
    """Central differences of the edit itself, for those features that score highest."""
    sae, referee = loaded[kind], dictionary_of(kind)
    scores = sae.attribute(IDS, OTHER_IDS, metric=METRIC)[f"features={sae.dictionary_id}"]
    assert scores.dims == ("position", "feature")
    site = str(sae.point)
    features, others = (referee.encode(client.capture(ids, [site])[site][0]) for ids in (IDS, OTHER_IDS))
    moved = others - features
    for place, score in scores.top(4):
        position, feature = place["position"], place["feature"]
        values = []
        for sign in (1, -1):
            by = float(sign * 0.02)
            logits = client.capture(IDS, ["logits"], interventions=[sae.add(feature, by, positions=position)])["logits"]
            values.append(float(logits[0, -1, 7]) - float(logits[0, -1, 9]))
        slope = (values[0] - values[1]) / 0.04
        assert score == pytest.approx(slope * moved[position, feature], rel=2e-2, abs=1e-4)
    alone = sae.attribute(IDS, metric=METRIC, by_position=False)[f"features={sae.dictionary_id}"]
    assert alone.dims == ("feature",)


def test_attributions_of_features_and_of_the_error_add_up_to_that_of_the_site(
    client: Client, loaded: dict[str, LoadedDictionary]
) -> None:
    sae, referee = loaded["standard"], dictionary_of("standard")
    places = [sae.scored(), "resid_post.2:position,unit"]
    result = client.attribute(IDS, OTHER_IDS, metric=METRIC, sites=places)
    features, whole = result[f"features={sae.dictionary_id}"].values, result["resid_post"].values[0]
    clean, other = (client.capture(ids, ["resid_post.2"])["resid_post", 2][0] for ids in (IDS, OTHER_IDS))
    gradient = whole / np.where(
        other == clean, 1, other - clean
    )  # of the first token, which both have, it is of no use
    errors = [x - referee.decode(referee.encode(x), x) for x in (clean, other)]
    of_error = ((errors[1] - errors[0]) * gradient).sum(axis=-1)
    assert np.abs(features.sum(axis=-1) + of_error - whole.sum(axis=-1)).max() < 1e-3 * np.abs(whole.sum(axis=-1)).max()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_features_and_edits_of_them(
    family: str, family_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    """Width, sandwich norms, experts and rings: the referee sees captured activations, whatever made them."""
    folder = family_dir(family)
    with Client.local(model=[str(folder)]) as client:
        width = client.model().model.d_model
        referee = make("jumprelu", "blocks.1.hook_resid_post", width)
        sae = client.dictionaries.load(referee.write(tmp_path / "sae"))
        transcoder = make("transcoder", "blocks.1.mlp.hook_in", width, hook_name_out="blocks.1.hook_mlp_out")
        cases = [(sae, referee)]
        inner = site_pb2.Site(component="mlp_out", layer=1, side=site_pb2.SIDE_INPUT)
        if not client.model().why_not(inner):
            cases.append((client.dictionaries.load(transcoder.write(tmp_path / "tc")), transcoder))
        for one, numpy in cases:
            found = captured(client, one)
            close(found["features"], numpy.encode(found["read"]), 2e-5)
            active = [int(f) for f in found["top_features_indices"][-1, :2]]

            def ablated(features: Any, active: Any = active) -> Any:
                new = features.copy()
                new[:, active] = 0
                return new

            expected = numpy.changed(found["written"], found["read"], ablated)[None].astype(np.float32)
            site = str(one.output)
            injected = client.capture(IDS, ["logits"], interventions=[replace(site, None, expected)])["logits"]
            edited = client.capture(IDS, ["logits"], interventions=[one.ablate(active)])["logits"]
            close(edited, injected, 5e-5)
            sweep = client.ablate(IDS).features(one, active, positions=[2, -1])
            close(sweep.run(METRIC).values, sweep.run(METRIC, method="plain").values, 2e-5)


# Loading.


def test_a_dictionary_is_described_listed_and_freed(
    client: Client, tmp_path: Path, loaded: dict[str, LoadedDictionary]
) -> None:
    before = {sae.dictionary_id for sae in client.dictionaries}
    sae = client.dictionaries.load(dictionary_of("topk").write(tmp_path / "another"), dtype="bfloat16")
    assert sae.description.length_bytes == 2 * (2 * WIDTH * FEATURES + FEATURES + WIDTH)
    assert (sae.architecture, sae.description.top_k, sae.description.trained_on) == ("topk", 7, "a model")
    assert client.dictionaries.get("another").description == sae.description
    assert {found.dictionary_id for found in client.dictionaries.list("llama")} == before | {"another"}
    assert client.dictionaries.list("gpt2") == []
    x = client.capture(IDS, ["resid_post.2"])["resid_post", 2][0]
    features = client.capture(IDS, [sae.hook(all=True)])["resid_post.2:features"][0]
    expected = dictionary_of("topk").encode(x)
    assert np.abs(features - expected).max() < 0.2 * np.abs(expected).max()  # bfloat16 chooses a few others
    client.dictionaries.unload("another")
    with pytest.raises(UnknownIdError, match="another"):
        client.dictionaries.get("another")
    with pytest.raises(UnknownIdError, match="another"):
        client.capture(IDS, [sae.hook(all=True)])


def test_older_configurations_are_read(client: Client, tmp_path: Path) -> None:
    """Before version 6 everything lay side by side, and the oldest say hook_point."""
    referee = make("standard", RESID, WIDTH)
    older = {
        "hook_point": RESID,
        "hook_point_layer": 2,
        "hook_point_head_index": None,
        "d_in": WIDTH,
        "d_sae": FEATURES,
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 5},
        "normalize_activations": False,
        "model_name": "gpt2-small",
    }
    old = NumpyDictionary(older, referee.tensors)
    sae = client.dictionaries.load(old.write(tmp_path / "old"))
    assert (sae.architecture, sae.point.layer, sae.description.trained_on) == ("topk", 2, "gpt2-small")
    x = client.capture(IDS, ["resid_post.2"])["resid_post", 2][0]
    close(client.capture(IDS, [sae.hook(all=True)])["resid_post.2:features"][0], old.encode(x))
    client.dictionaries.unload("old")


def test_heads_are_joined(client: Client, tmp_path: Path) -> None:
    referee = make("jumprelu", "blocks.1.attn.hook_z", WIDTH)
    sae = client.dictionaries.load(referee.write(tmp_path / "z"))
    x = client.capture(IDS, ["head_output.1"])["head_output", 1]
    assert x.shape[-2:] == (8, 16)
    flat = x[0].reshape(len(IDS), -1)
    close(client.capture(IDS, [sae.hook(all=True)])["head_output.1:features"][0], referee.encode(flat))
    expected = referee.changed(flat, flat, lambda features: features * 0).reshape(x.shape).astype(np.float32)
    edited = client.capture(IDS, ["head_output.1"], interventions=[sae.scale([], 0.0)])["head_output", 1]
    close(edited, expected)
    client.dictionaries.unload("z")


def test_rescaled_top_k_chooses_by_the_norm_of_decoder_rows(client: Client) -> None:
    referee = make("topk", RESID, WIDTH, rescale_acts_by_decoder_norm=True)
    lengths = np.linspace(0.2, 3, FEATURES, dtype=np.float32)
    decoder = referee.tensors["W_dec"] * lengths[:, None]
    tensors = referee.tensors | {"W_dec": decoder}
    sae = client.dictionaries.load(dictionary_id="rescaled", configuration=referee.configuration, tensors=tensors)
    x = client.capture(IDS, ["resid_post.2"])["resid_post", 2][0].astype(np.float64)
    z = ((x - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]) * lengths
    features = np.where(np.argsort(np.argsort(-z, axis=-1), axis=-1) < 7, np.maximum(z, 0), 0)
    close(client.capture(IDS, [sae.hook(all=True)])["resid_post.2:features"][0], features)
    expected = features @ (decoder / lengths[:, None]) + tensors["b_dec"]
    edited = client.capture(IDS, ["resid_post.2"], interventions=[sae.reconstruct()])["resid_post", 2][0]
    close(edited, expected)
    client.dictionaries.unload("rescaled")


def test_uploaded_parts_are_the_same_dictionary(client: Client, loaded: dict[str, LoadedDictionary]) -> None:
    referee = dictionary_of("jumprelu")
    tensors: dict[str, Any] = dict(referee.tensors)
    tensors["W_enc"] = client.put_tensor(tensors["W_enc"])
    sae = client.dictionaries.load(dictionary_id="parts", configuration=referee.configuration, tensors=tensors)
    same = captured(client, sae)["features"] == captured(client, loaded["jumprelu"])["features"]
    assert same.all()
    client.dictionaries.unload("parts")


def broken(**changes: Any) -> NumpyDictionary:
    base = make("jumprelu", RESID, WIDTH)
    tensors = {name: t for name, t in base.tensors.items() if changes.get(name, t) is not None}
    tensors |= {name: value for name, value in changes.items() if name in tensors}
    said = {name: value for name, value in changes.items() if name not in base.tensors}
    return NumpyDictionary(base.configuration | said, tensors)


@pytest.mark.parametrize(
    ("dictionary", "error", "told"),
    [
        (make("jumprelu", RESID, 96), InvalidRequestError, "96 numbers, and resid_post.2 of llama has 128"),
        (make("jumprelu", "blocks.9.hook_resid_post", WIDTH), UnknownSiteError, "layer 9 is out of range"),
        (make("jumprelu", "blocks.1.hook_somewhere", WIDTH), UnknownSiteError, "hook_somewhere"),
        (make("jumprelu", "blocks.1.attn.hook_pattern", WIDTH), InvalidRequestError, "no vector at each position"),
        (make("jumprelu", "", WIDTH), InvalidRequestError, "does not say where"),
        (broken(architecture="crosscoder"), ModelUnsupportedError, "crosscoder"),
        (broken(activation_fn="tanh-relu"), ModelUnsupportedError, "tanh-relu"),
        (broken(normalize_activations="expected_average_only_in"), ModelUnsupportedError, "fold it"),
        (broken(hook_head_index=3), ModelUnsupportedError, "head 3"),
        (broken(threshold=None), ModelCorruptError, "no tensor threshold"),
        (broken(W_dec=None), ModelCorruptError, "no tensor W_dec"),
        (broken(b_enc=np.zeros(5, np.float32)), ModelCorruptError, "b_enc has the shape"),
        (broken(b_enc=np.full(FEATURES, np.nan, np.float32)), ModelCorruptError, "b_enc holds"),
        (broken(d_sae=12), ModelCorruptError, "d_sae 12, and W_enc has 48"),
        (broken(d_in="wide"), ModelCorruptError, "d_in"),
        (
            make("transcoder", "blocks.2.mlp.hook_in", WIDTH, hook_name_out="blocks.1.hook_mlp_out"),
            InvalidRequestError,
            "cannot write",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    client: Client, tmp_path: Path, dictionary: NumpyDictionary, error: type[MLXIntegrationError], told: str
) -> None:
    with pytest.raises(error, match=told):
        client.dictionaries.load(dictionary.write(tmp_path / "broken"), model_id="llama")
    assert "broken" not in {sae.dictionary_id for sae in client.dictionaries}


def test_files_that_are_none_are_refused(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no folder"):
        client.dictionaries.load(tmp_path / "nowhere")
    folder = dictionary_of("standard").write(tmp_path / "half")
    (folder / "sae_weights.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(ModelCorruptError, match="safetensors"):
        client.dictionaries.load(folder)
    (folder / "cfg.json").write_text("[1]")
    with pytest.raises(ModelCorruptError):
        client.dictionaries.load(folder)
    (folder / "sae_weights.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no sae_weights\.safetensors"):
        client.dictionaries.load(folder)


def test_mistakes_name_their_field(client: Client, loaded: dict[str, LoadedDictionary]) -> None:
    sae = loaded["jumprelu"]
    cases: list[tuple[Any, type[MLXIntegrationError], str, str]] = [
        (lambda: client.capture(IDS, ["logits"], interventions=[sae.ablate(FEATURES)]), InvalidRequestError,
         "interventions[0].value.features.edits[0].features[0]", "features 0 to 47"),
        (lambda: client.capture(IDS, [sae.hook(features=[1, 99])]), InvalidRequestError,
         "hooks[0].reduction.features.features[1]", "feature 99"),
        (lambda: client.capture(IDS, [sae.hook()]), InvalidRequestError, "hooks[0].reduction.features", "nothing"),
        (lambda: client.capture(IDS, [sae.hook(top=49)]), InvalidRequestError,
         "hooks[0].reduction.features.top_count", "48"),
        (lambda: client.capture(IDS, [sae.hook(top=2)], model_id="gpt2"), InvalidRequestError,
         "hooks[0].reduction.features.dictionary_id", "'llama', not of 'gpt2'"),
        (lambda: client.capture(IDS, [Hook("resid_post", 1, reduce=sae.hook(top=2).reduce)]), UnavailableSiteError,
         "hooks[0].reduction.features.dictionary_id", "reads resid_post.2"),
        (lambda: client.ablate(IDS).features("jumprely").run(METRIC), UnknownIdError,
         "grids[0].features.dictionary_id", "jumprelu"),
        (lambda: client.ablate(IDS).features(sae, [60]).run(METRIC), InvalidRequestError,
         "grids[0].features.axis", "feature 60"),
        (lambda: client.attribute(IDS, OTHER_IDS, metric=METRIC, sites=["features=nothing:unit"]), UnknownIdError,
         "nodes.sites[0].dictionary_id", "nothing"),
        (lambda: client.dictionaries.load("x", dictionary_id="jumprelu", model_id="nope"), MLXIntegrationError,
         "model_id", "nope"),
        (lambda: client.dictionaries.unload("nope"), UnknownIdError, "dictionary_id", "nope"),
        (lambda: client.dictionaries.load(sae.description.path), IdTakenError, "dictionary_id", "jumprelu"),
        (lambda: client.dictionaries.load(sae.description.path, dictionary_id="a b"), InvalidRequestError,
         "dictionary_id", "no name"),
    ]  # fmt: skip
    for call, error, field, told in cases:
        with pytest.raises(error) as caught:
            call()
        assert caught.value.field == field
        assert told in str(caught.value)


def test_an_edit_elsewhere_than_the_dictionary_writes_is_refused(
    client: Client, loaded: dict[str, LoadedDictionary]
) -> None:
    edited = loaded["jumprelu"].ablate(1).message
    moved = intervention_pb2.Intervention()
    moved.CopyFrom(edited)
    moved.site.layer = 1
    with pytest.raises(UnavailableSiteError, match=r"writes resid_post\.2, not resid_post\.1"):
        client.capture(IDS, ["logits"], interventions=[moved])
    moved.ClearField("site")  # then it is where the dictionary writes
    same = client.capture(IDS, ["logits"], interventions=[moved])["logits"]
    assert (same == client.capture(IDS, ["logits"], interventions=[edited])["logits"]).all()


def test_forms_of_edits_round_trip(client: Client, loaded: dict[str, LoadedDictionary]) -> None:
    edited = loaded["jumprelu"].edit(
        [
            intervention_pb2.FeatureEdit(features=[3], value=5),
            intervention_pb2.FeatureEdit(features=[7, 9], factor=0.5),
            intervention_pb2.FeatureEdit(added=0.25),
        ],
        steps=0,
    )
    again = Intervention.from_json(json.loads(json.dumps(edited.to_json())))
    assert again == edited
    assert repr(edited) == "resid_post.2[steps 0] := act{jumprelu: f3 = 5; f7, f9 · 0.5; all + 0.25}"
    nested = edit("resid_post", 2, lambda act: act * 1.0, positions=0)
    client.capture(IDS, ["logits"], interventions=[edited, nested])


def test_dictionaries_go_with_their_model_and_count_as_its_memory(
    llama_dir: Path, gpt2_dir: Path, tmp_path: Path
) -> None:
    path = dictionary_of("standard").write(tmp_path / "sae")
    with Client.local(model=[str(llama_dir)]) as client:
        before = client.workload().weights_bytes
        sae = client.dictionaries.load(path)
        assert client.workload().weights_bytes == before + sae.description.length_bytes
        client.unload_model("llama")
        assert client.dictionaries.list() == []
        client.load_model(llama_dir)
        with pytest.raises(UnknownIdError):
            client.dictionaries.get("sae")
    with Client.local(model=[str(llama_dir)], model_memory_bytes=before + 1000) as client:
        with pytest.raises(ResourceExhaustedError, match="'sae' needs"):
            client.dictionaries.load(path)
        assert client.dictionaries.list() == []


def test_paths_outside_of_the_allowed_folders_are_refused(llama_dir: Path, tmp_path: Path) -> None:
    allowed, outside = tmp_path / "allowed", tmp_path / "outside"
    inside = dictionary_of("standard").write(allowed / "sae")
    forbidden = dictionary_of("standard").write(outside / "sae2")
    with Client.local(model=[str(llama_dir)], model_dirs=[str(allowed)]) as client:
        client.dictionaries.load(inside)
        for path in (forbidden, tmp_path / "not there", allowed / ".." / "outside" / "sae2"):
            with pytest.raises(PermissionDeniedError) as caught:
                client.dictionaries.load(path)
            assert caught.value.field == "path"
