"""Texts changed a little: what each operation may do, and what it may not."""

import csv
import json

import numpy as np
import pytest

from gptjax import cli, config, convert, data, errors
from gptjax.data import augmentation

TEXT = "The old film is good, and it was long. Nobody slept! Was it art?"
WORDS = TEXT.split()


def change(text, seeds=30, **settings):
    """What becomes of a text, with several generators."""
    made = data.Augmentation(config.Augmentation(**settings))
    return [made(text, np.random.default_rng(seed)) for seed in range(seeds)]


@pytest.fixture
def synonyms(tmp_path):
    path = tmp_path / "synonyms.txt"
    path.write_text("good, fine, nice\nfilm\tmovie\n电影,影片\n好看,精彩\n", "utf-8")
    return str(path)


@pytest.mark.parametrize("operation", ["swap", "shuffle", "sentences"])
def test_order_changes_and_words_do_not(operation):
    """Nothing is lost, nothing is doubled."""
    found = change(TEXT, operations={operation: 1.0}, strength=0.3)
    assert len(set(found)) > 1
    for text in found:
        assert sorted(text.split()) == sorted(WORDS)


def test_shuffled_words_move_a_few_places():
    """Else the text would say nothing any more."""
    text = " ".join(f"w{n}" for n in range(40))
    for found in change(text, operations={"shuffle": 1.0}):
        places = [int(word[1:]) for word in found.split()]
        assert max(abs(n - place) for n, place in enumerate(places)) <= 4
        assert places != sorted(places)


def test_swapped_sentences_stay_whole():
    found = change(TEXT, operations={"sentences": 1.0})
    for text in found:
        for sentence in ("Nobody slept!", "Was it art?"):
            assert sentence in text
    assert change("One sentence only.", operations={"sentences": 1.0}, seeds=1) == [
        "One sentence only."
    ]


def test_deletion_leaves_words_in_their_order():
    """And one at least."""
    for text in change(TEXT, operations={"deletion": 1.0}, strength=0.4):
        left = iter(WORDS)
        assert all(word in left for word in text.split())
    assert set(change("alone", operations={"deletion": 1.0}, strength=1.0)) == {"alone"}
    for text in change(TEXT, operations={"deletion": 1.0}, strength=1.0):
        assert text.strip() in WORDS


def test_synonyms_keep_punctuation_and_capitals(synonyms):
    """`good,` is the word good."""
    how = {"operations": {"synonyms": 1.0}, "strength": 0.5, "synonyms": synonyms}
    found = change(TEXT, **how)
    assert {text.split()[4] for text in found} == {"fine,", "nice,"}
    assert {text.split()[2] for text in found} == {"movie"}
    assert change("Good.", **how, seeds=9)[0] in ("Fine.", "Nice.")
    assert set(change("nothing known", **how)) == {"nothing known"}


def test_as_many_words_change_as_are_to(synonyms):
    text = "good " * 20
    how = {"operations": {"synonyms": 1.0}, "strength": 0.25, "synonyms": synonyms}
    for found in change(text, **how):
        assert sum(word != "good" for word in found.split()) == 5


def test_insertion_adds_synonyms_of_words_that_are_there(synonyms):
    how = {"operations": {"insertion": 1.0}, "strength": 0.2, "synonyms": synonyms}
    for found in change(TEXT, **how):
        rest = found.split()
        for word in WORDS:
            rest.remove(word)
        assert len(rest) == 3
        assert set(rest) <= {"fine", "nice", "movie"}


def test_a_short_text_is_said_twice():
    assert set(change("a bore", operations={"duplication": 1.0})) == {"a bore a bore"}
    assert set(change(TEXT, operations={"duplication": 1.0})) == {TEXT}


def test_chinese_has_words_without_spaces(synonyms):
    """A word of two characters is not torn apart."""
    how = {"operations": {"synonyms": 1.0}, "strength": 1.0, "synonyms": synonyms}
    assert set(change("这部电影好看", **how)) == {"这部影片精彩"}
    for text in change("这部电影好看", operations={"swap": 1.0}):
        assert "电" in text
        assert " " not in text
        assert sorted(text) == sorted("这部电影好看")


def test_probabilities_are_those_given():
    """Of 400 texts about a quarter changes."""
    found = change(TEXT, operations={"swap": 0.25}, seeds=400)
    assert 70 < sum(text != TEXT for text in found) < 130


def test_gaps_between_words_are_kept():
    text = "  two  spaces,\nand a line "
    words = augmentation.split(text)
    assert "".join(word + gap for word, gap in words) == text


def test_synonyms_may_be_json(tmp_path):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"Good": ["fine"]}))
    assert augmentation.read_synonyms(path) == {"good": ["fine"]}


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("s.txt", "a, b\nalone\n", "line 2: 'alone' is one word"),
        ("s.json", "[1]", "not a JSON object"),
        ("no.txt", None, "cannot be read: No such file"),
    ],
)
def test_a_file_of_no_synonyms_is_refused(tmp_path, name, content, wanted):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(errors.UserError, match=wanted):
        augmentation.read_synonyms(tmp_path / name)


def test_wordnet_without_its_data_says_how_to_get_it(tmp_path):
    import wn

    wn.config.data_directory = tmp_path
    with pytest.raises(errors.UserError, match="python -m wn download"):
        change(TEXT, operations={"synonyms": 1.0}, synonyms="wordnet", seeds=1)


LMF = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE LexicalResource SYSTEM "http://globalwordnet.github.io/schemas/WN-LMF-1.0.dtd">
<LexicalResource xmlns:dc="http://purl.org/dc/elements/1.1/">
  <Lexicon id="tiny" label="Tiny" language="en" email="a@b.c" license="none"
    version="1">
    <LexicalEntry id="tiny-film"><Lemma writtenForm="film" partOfSpeech="n"/>
      <Sense id="tiny-1" synset="tiny-n"/></LexicalEntry>
    <LexicalEntry id="tiny-movie"><Lemma writtenForm="movie" partOfSpeech="n"/>
      <Sense id="tiny-2" synset="tiny-n"/></LexicalEntry>
    <Synset id="tiny-n" ili="i1" partOfSpeech="n"/>
  </Lexicon>
</LexicalResource>
"""


def test_wordnet_gives_synonyms(tmp_path):
    """A lexicon of two words stands for the English one."""
    import wn

    wn.config.data_directory = tmp_path
    (tmp_path / "tiny.xml").write_text(LMF)
    wn.add(tmp_path / "tiny.xml", progress_handler=None)
    how = {"operations": {"synonyms": 1.0}, "synonyms": "wordnet"}
    assert set(change("The film.", **how)) == {"The movie."}


def examples(tmp_path, texts):
    path = tmp_path / "texts.csv"
    rows = "".join(f'{"ab"[n % 2]},"{text}"\n' for n, text in enumerate(texts))
    path.write_text("label,text\n" + rows)
    return data.read_examples(
        config.Source(path=str(path)),
        data.Tokenizer(convert.resolve("packaged")),
        labels=None,
        append_eos=True,
        workers=1,
        cache_dir=str(tmp_path / "cache"),
        vocab_size=2048,
        progress=False,
        keep_texts=True,
    )


def test_training_texts_change_anew_each_time_and_alike_after_a_resume(tmp_path):
    """A text that changed but once would be as good as another text."""
    many = examples(tmp_path, [f"text number {n} of some" for n in range(8)])
    made = data.Augmentation(config.Augmentation(operations={"swap": 1.0}))

    def stream():
        return data.ExampleBatches(
            many, sequence_tokens=32, batch_sequences=8, accumulation_steps=1, seed=1,
            pad_id=3, change=many.changed(made),
        )  # fmt: skip

    one = stream()
    first, second = next(one), next(one)
    state = one.get_state()
    third = next(one)
    other = stream()
    other.set_state(state)
    np.testing.assert_array_equal(next(other)["tokens"], third["tokens"])

    def rows(batch):
        return {tuple(row.tolist()) for row in batch["tokens"][0]}

    assert rows(first) != rows(second)
    # The tokenizer's end-of-text token ends changed texts, too.
    assert all((row[row != 3][-1]) == 0 for row in first["tokens"][0])


def test_the_command_writes_texts_and_changed_copies(tmp_path, capsys):
    """Labels stay with their texts; the same seed writes the same file."""
    source = tmp_path / "in.csv"
    source.write_text(f'label,text\ngood,"{TEXT}"\nbad,alone\n')
    given = ["augment", str(source), "--operation", "swap=1", "--copies", "3"]
    for name in ("one.csv", "two.csv"):
        assert cli.main([*given[:2], str(tmp_path / name), *given[2:]]) == 0
    assert "2 texts, and 3 changed copies" in capsys.readouterr().out
    one, two = ((tmp_path / n).read_text() for n in ("one.csv", "two.csv"))
    assert one == two
    rows = list(csv.DictReader(one.splitlines()))
    assert [row["label"] for row in rows] == ["good"] * 4 + ["bad"]
    assert len({row["text"] for row in rows}) == 5


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--operation", "swop=1"], "--operation"),
        (["--operation", "swap=2"], "less than or equal to 1"),
        (["--operation", "swap"], "unable to parse string as a number"),
        (["--operation", "synonyms=1"], "needs synonyms: wordnet or a file"),
    ],
)
def test_an_operation_that_is_none_is_refused(tmp_path, capsys, arguments, wanted):
    source = tmp_path / "in.csv"
    source.write_text("label,text\na,b\n")
    code = cli.main(["augment", str(source), str(tmp_path / "out.csv"), *arguments])
    said = capsys.readouterr().err
    assert code == 1
    assert wanted in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out.csv").exists()


def test_a_source_is_not_written_over(tmp_path, capsys):
    """Its texts would be gone, and only the changed ones left."""
    source = tmp_path / "in.csv"
    source.write_text("label,text\na,b c\n")
    code = cli.main(["augment", str(source), str(source), "--operation", "swap=1"])
    assert code == 1
    assert "is the source itself" in capsys.readouterr().err
    assert source.read_text() == "label,text\na,b c\n"


def test_wordnet_is_read_by_the_thread_that_makes_batches(tmp_path):
    """Its database belongs to one thread, unless told otherwise."""
    import concurrent.futures

    import wn

    wn.config.data_directory = tmp_path
    wn.config.allow_multithreading = False
    (tmp_path / "tiny.xml").write_text(LMF)
    wn.add(tmp_path / "tiny.xml", progress_handler=None)
    # A command finds the database there, and opens it itself.
    wn._db.clear_connections()
    settings = config.Augmentation(operations={"synonyms": 1.0}, synonyms="wordnet")
    made = data.Augmentation(settings)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        found = pool.submit(made, "The film.", np.random.default_rng(0)).result()
    assert found == "The movie."
