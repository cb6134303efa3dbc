"""Every example runs from its first line to its last, and is named on the README's page."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from prunus.accelerate import race
from prunus.report import comparison

HERE = Path(__file__).parent
EXAMPLES = sorted(path for path in HERE.glob("*.py") if path.name != Path(__file__).name)
ROOT = HERE.parents[1]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, set_threads) -> None:
    """Measurements as short as they get; one thread: tensors this small only wait for a second one."""
    monkeypatch.setattr(race, "SECONDS", 0.0)
    monkeypatch.setattr(race, "MIN_PASSES", 1)
    monkeypatch.setattr(comparison, "SECONDS", 0.0)
    set_threads(1)


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(HERE / name), run_name="__example__")


def small_encoder(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "the", "a", "of", "in", "is", "need"))}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(words), initializer_range=0.2, **sizes)).save_pretrained(folder)


def test_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small_encoder(tmp_path)
    run("encoder.py", monkeypatch, tmp_path)
    said = capsys.readouterr().out
    assert "SparseGPT" in said
    found = re.search(r"cosine to the dense model (.+); of the loaded one to the pruned one (.+)", said)
    assert found
    assert 0.5 < float(found[1]) < 1.0
    assert found[2] == "1.000"


def test_sentence_embeddings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sentence_transformers")
    small_encoder(tmp_path)
    run("sentence_embeddings.py", monkeypatch, tmp_path)
    said = capsys.readouterr().out
    found = re.search(r"cosine to the dense model (.+); of the loaded one to it (.+)", said)
    assert found
    assert 0.5 < float(found[1]) < 1.0
    assert found[2] == "1.000"
    assert "encode of 32 texts" in said


def test_llm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import prunus

    run("llm.py", monkeypatch)
    assert "40 tokens" in capsys.readouterr().out
    # And with a directory in and out.
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_head": 4, "n_layer": 1, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(vocab_size=60, loss_type="ForCausalLM", **sizes)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "in")
    run("llm.py", monkeypatch, tmp_path / "in", tmp_path / "out")
    model = prunus.load_pretrained(tmp_path / "out")
    assert model.config.n_inner == 96  # a quarter of 128 neurons went


@pytest.mark.parametrize("name", ["own_model.py", "numpy_backend.py", "keep_zeros.py"])
def test_example(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(name, monkeypatch)
    assert capsys.readouterr().out


def test_the_backend_imports_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "numpy_backend.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_example_is_tested_and_linked() -> None:
    here, readme = Path(__file__).read_text(), (ROOT / "README.md").read_text()
    for path in EXAMPLES:
        assert f'"{path.name}"' in here
        assert f"(tests/examples/{path.name})" in readme
        text = path.read_text()
        assert text.startswith('"""')
        assert f"python tests/examples/{path.name}" in text
