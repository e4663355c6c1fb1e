"""Checkpoints: where their files are, and what is refused of config.json and tokenizer before weights are read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint_factory import ABSENT, Written, host_of, write
from checkpoint_factory import config as original_config

from l2pd_bench.errors import UsageError
from l2pd_bench.hosts import dream, llada
from l2pd_bench.hosts.checkpoint import Fields, locate
from l2pd_bench.hosts.tokens import ByteTokens
from l2pd_bench.registry import load_host

KINDS = ("llada", "dream")


@pytest.fixture(params=KINDS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Written:
    """A small checkpoint of each kind, for one test to spoil."""
    return write(tmp_path / f"{request.param}-tiny", request.param)


# ------------------------------------------------------------------ where it is


def test_a_folder_is_found(written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is known by its own name, its revision is "local", and its family by config.json."""
    monkeypatch.chdir(tmp_path)
    for name in (str(written.folder), f"./{written.folder.name}/", written.folder.name):
        found = locate(name, None)
        assert (found.name, found.revision, found.model_type) == (f"{written.kind}-tiny", "local", written.kind)
        assert found.folder.resolve() == written.folder
        assert found.config == written.fields
    monkeypatch.chdir(written.folder)
    assert locate(".", None).name == f"{written.kind}-tiny"


def in_hub_cache(written: Written, cache: Path, name: str, commit: str) -> Path:
    """The checkpoint as the hub's cache has it: links to files that are named by their content."""
    root = cache / f"models--{name.replace('/', '--')}"
    (root / "blobs").mkdir(parents=True)
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in written.folder.iterdir():
        data = path.read_bytes()
        kind = hashlib.sha256 if path.suffix == ".safetensors" else hashlib.sha1
        blob = root / "blobs" / kind(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / path.name).symlink_to(f"../../blobs/{blob.name}")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    return snapshot


def test_a_repository_is_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a repository on this machine, name and commit are known, and the weights' hash is read off the cache.

    It is that of the same files in a folder, whose content is read.
    """
    written = write(tmp_path / "folder", "llada")
    folder_hash = host_of(written).weights_hash
    in_hub_cache(written, tmp_path / "cache", "owner/LLaDA-tiny", "0123456789" * 4)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("hashlib.file_digest", None)
    host = load_host("owner/LLaDA-tiny", device="cpu")

    assert (host.name, host.revision) == ("owner/LLaDA-tiny", "0123456789" * 4)
    assert host.weights_hash == folder_hash
    assert locate("owner/LLaDA-tiny", "main").revision == "0123456789" * 4
    with pytest.raises(
        UsageError, match=r"got 'owner/LLaDA-tiny' at revision 'v2', .*check the name, the revision and"
    ):
        locate("owner/LLaDA-tiny", "v2")


def test_only_data_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON, templates, vocabularies and safetensors of the top folder are asked for: no pickles and no code."""
    from huggingface_hub.utils import filter_repo_objects

    asked: dict[str, Any] = {}

    def snapshot_download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(write(tmp_path / "c0ffee", "llada").folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    found = locate("owner/model", "v1")
    files = [
        *("config.json", "model.safetensors", "tokenizer.json", "merges.txt", "chat_template.jinja"),
        *("pytorch_model.bin", "modeling_llada.py", "README.md", "original/model.safetensors", "x.pt", "x.pkl"),
    ]
    patterns = {key: asked[key] for key in ("allow_patterns", "ignore_patterns")}

    assert (found.name, found.revision) == ("owner/model", "c0ffee")
    assert (asked["name"], asked["revision"], asked["local_files_only"]) == ("owner/model", "v1", False)
    assert list(filter_repo_objects(files, **patterns)) == files[:5]
    locate("owner/model", None, weights=False)
    assert list(filter_repo_objects(files, allow_patterns=asked["allow_patterns"])) == [files[0], *files[2:5]]


@pytest.mark.parametrize("name", ["./no/such", "/no/such", "~/no/such", "no/such/model", "no-such", "..", "a/b?"])
def test_what_looks_like_a_folder_is_not_asked_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path where no folder is, is an error without asking a network."""
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    monkeypatch.setattr("pathlib.Path.is_dir", lambda path: False)

    with pytest.raises(UsageError, match=r"model: got '.*expected a folder, or a hub id .*there is no such folder"):
        locate(name, None)


def test_a_model_that_cannot_be_downloaded_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network and without a copy, name, way out and reason are told."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    for download in (True, False):
        with pytest.raises(
            UsageError, match=r"model: got 'owner/model', expected a folder, or a hub id .*Cannot find an appropriate"
        ):
            locate("owner/model", None, download=download)


def test_a_revision_of_a_folder_is_an_error(written: Written) -> None:
    """A folder has no revisions."""
    with pytest.raises(UsageError, match=r"revision: got 'v1' for the folder"):
        load_host(str(written.folder), revision="v1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"config\.json' cannot be read .*expected a config\.json"),
        ("{", r"config\.json' cannot be read .*Expecting property name"),
        ("[]", r"got list in '.*config\.json', expected an object"),
        ("{}", r"got the model_type None in '.*config\.json', expected the name"),
        ('{"model_type": "bert"}', r"model_type 'bert', expected one of .*dream.*llada"),
    ],
)
def test_a_folder_that_is_no_checkpoint(content: str | None, message: str, tmp_path: Path) -> None:
    """config.json must be there, be JSON, and name a family that is known."""
    if content is not None:
        (tmp_path / "config.json").write_text(content)

    with pytest.raises(UsageError, match=message):
        load_host(str(tmp_path))


# ------------------------------------------------------------------ what config.json asks for


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *(("llada", {name: ABSENT}) for name in llada.SHAPE_8B if llada.FIXED.get(name, (None,))[-1] is not None),
        *(("llada", {name: ABSENT}) for name in llada.SHAPE_8B if name not in llada.FIXED),
        *(("llada", {name: True}) for name in ("alibi", "attention_layer_norm", "include_bias", "include_qkv_bias")),
        *(
            ("llada", {name: True})
            for name in ("weight_tying", "scale_logits", "input_emb_norm", "bias_for_layer_norm")
        ),
        *(("llada", {name: False}) for name in ("rope", "layer_norm_with_affine")),
        *(("llada", {name: "gelu"}) for name in ("activation_type", "block_type", "layer_norm_type", "rope_scaling")),
        *(("llada", {name: 7}) for name in ("embedding_size", "block_group_size", "multi_query_attention")),
        *(("llada", {name: 0}) for name in ("d_model", "n_heads", "rms_norm_eps", "rope_theta", "n_layers")),
        *(("llada", {name: "4"}) for name in ("d_model", "rope_full_precision", "rms_norm_eps", "mask_token_id")),
        *(("llada", {name: True}) for name in ("n_layers", "rope_theta")),
        *(("dream", {name: ABSENT}) for name in dream.SHAPE_7B if not name.endswith("token_id")),
        *(("dream", {name: True}) for name in ("tie_word_embeddings", "use_sliding_window", "use_mrope")),
        *(("dream", {name: {"rope_type": "yarn"}}) for name in ("rope_scaling", "rope_parameters")),
        *((kind, {"quantization_config": {"bits": 4}}) for kind in KINDS),
        ("dream", {"hidden_act": "gelu"}),
        ("dream", {"head_dim": 16}),
        ("dream", {"mask_token_id": -1}),
    ],
    ids=lambda value: (
        " ".join(f"{name}={json.dumps(v)}" for name, v in value.items()) if isinstance(value, dict) else value
    ),
)
def test_a_network_that_is_not_implemented(kind: str, changes: dict[str, Any]) -> None:
    """A field that is missing, malformed, or asks for another network is named with what was expected."""
    fields = Fields(original_config(kind, **changes), "some/config.json")
    family = {"llada": llada, "dream": dream}[kind]
    [name] = changes

    with pytest.raises(UsageError, match=rf"model: got (no )?{name}\b.* in 'some/config\.json', expected "):
        (family.shape(fields), family.special(fields, ByteTokens()))


@pytest.mark.parametrize("sizes", [{"n_heads": 5}, {"n_heads": 32}, {"n_kv_heads": 3}])
def test_sizes_that_do_not_fit(sizes: dict[str, int], tmp_path: Path) -> None:
    """Heads must divide the channels evenly, and share keys and values evenly."""
    with pytest.raises(UsageError, match=r"got sizes in '.*config\.json' that do not fit each other: "):
        host_of(write(tmp_path, "llada", **sizes))


def test_a_vocabulary_larger_than_the_network(tmp_path: Path) -> None:
    """A tokenizer with ids that the network has no embedding for is refused."""
    with pytest.raises(UsageError, match=r"tokenizer: got id \d+ in '?.*, expected ids below the vocab_size 300"):
        host_of(write(tmp_path, "llada", vocab_size=300, embedding_size=300))


@pytest.mark.parametrize(
    ("kind", "name"),
    [("llada", "tokenizer.json"), ("llada", "tokenizer_config.json"), ("dream", "vocab.json"), ("dream", "merges.txt")],
)
def test_a_tokenizer_that_is_not_whole(kind: str, name: str, tmp_path: Path) -> None:
    """A folder that lacks a part of its tokenizer is refused; so is one whose part is spoilt."""
    written = write(tmp_path, kind)
    (written.folder / name).write_text("{")
    with pytest.raises(UsageError, match=r"tokenizer: got files in '.*' that transformers' \w+ cannot read"):
        host_of(written)
    (written.folder / name).unlink()

    with pytest.raises(
        UsageError, match=r"tokenizer: got no whole one in '.*', expected tokenizer.json and tokenizer_conf"
    ):
        host_of(written)


def test_a_vocabulary_alone_is_no_llada_tokenizer(tmp_path: Path) -> None:
    """How LLaDA splits text stands in tokenizer.json only, so vocab.json and merges.txt do not do."""
    written = write(tmp_path / "llada", "llada")
    (written.folder / "tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt"):
        (written.folder / name).write_bytes((write(tmp_path / "dream", "dream").folder / name).read_bytes())

    with pytest.raises(
        UsageError, match=r"tokenizer: got no whole one in '.*', expected tokenizer.json and tokenizer_conf"
    ):
        host_of(written)


def test_added_tokens_have_the_ids_they_are_told_to_have(tmp_path: Path) -> None:
    """A vocabulary that is not the checkpoint's shifts its added tokens, which is noticed."""
    written = write(tmp_path, "dream")
    vocab = json.loads((written.folder / "vocab.json").read_text())
    del vocab[max(vocab, key=vocab.get)]
    (written.folder / "vocab.json").write_text(json.dumps(vocab))
    merges = (written.folder / "merges.txt").read_text().splitlines()
    (written.folder / "merges.txt").write_text("\n".join(merges[:-1]) + "\n")

    with pytest.raises(
        UsageError, match=r"tokenizer: got id \d+ for '<\|endoftext\|>', expected \d+, as '.*tokenizer_config"
    ):
        host_of(written)
