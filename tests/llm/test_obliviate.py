"""OBLIVIATE: target tokens, retain sets, the three losses, and what each of them is needed for."""

import json

import numpy as np
import pytest
import torch
from peft import get_peft_model
from scipy.special import log_softmax, rel_entr, softmax
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gunlearn.errors import DatasetNotFoundError, InvalidInputError
from gunlearn.llm import nearest_without_shared, retain_triples, target_tokens
from gunlearn.llm.data.retain_sets import as_records, text_of
from gunlearn.llm.data.target_tokens import frequent_words
from gunlearn.llm.metrics import drma, token_scores
from gunlearn.llm.recipes.obliviate import FirstChoice, obliviate, obliviate_settings
from gunlearn.losses import MaskedVocabulary, Objective, Prediction
from tests.llm import facts
from tests.llm.tiny import tiny
from tests.llm.training import FORGET, RETAIN, arguments, make

DRAWN = {"generic": RETAIN[:48], "style": RETAIN[48:72], "world": RETAIN[72:]}
VALUES = tuple(sorted({facts.VOCABULARY[row["value"]] for row in FORGET}))


def texts(rows: list[dict]) -> list[str]:
    return [f"{row['prompt']} {row['answer']}" for row in rows]


def pieces() -> PreTrainedTokenizerFast:
    """Words in pieces: `hermione` is `her` + `##mion` + `##e`, `the` stands by itself."""
    words = "[UNK] the her boy a met saw owl with is of ##mion ##e ##ry har ##y ##owl castle ##s ## day quiet".split()
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


# Target tokens


def test_words_of_the_forgotten_people_are_found_and_no_others() -> None:
    found = frequent_words(texts(FORGET), texts(RETAIN))
    assert sorted(found) == sorted(facts.NAMES[i] for i in facts.FORGET)
    # Control: with the texts swapped, it is the others' names.
    assert not set(frequent_words(texts(RETAIN), texts(FORGET))) & set(found)


def test_frequency_ratio_is_the_smoothed_one_whatever_the_case() -> None:
    forget, background = ["Ron met ron, RON!", "a boy"], ["a boy met a girl", "a day"]
    # 6 words here, 7 there, 6 different ones: ron 4/12, met 2/12, boy 2/12, a 2/12 against 1, 2, 2, 4 of 13.
    ratios = {"ron": (4 / 12) / (1 / 13), "met": (2 / 12) / (2 / 13), "a": (2 / 12) / (4 / 13)}
    for word, ratio in ratios.items():
        kept = {w.casefold(): None for w in frequent_words(forget, background, min_ratio=ratio - 1e-9, min_count=1)}
        gone = {w.casefold() for w in frequent_words(forget, background, min_ratio=ratio + 1e-9, min_count=1)}
        assert word in kept
        assert word not in gone
    assert frequent_words(forget, background, min_ratio=3, min_count=3) == ["RON", "Ron", "ron"]
    assert frequent_words(forget, background, min_ratio=3, min_count=4) == []


def test_common_pieces_are_dropped_and_said_to_be() -> None:
    tokenizer = pieces()
    background = ["her day is quiet", "the owl saw her", "a castle"]
    targets = target_tokens(["hermione met harry"], background, tokenizer, words=["hermione", "harry", "her"])
    names = tokenizer.convert_ids_to_tokens(list(targets.token_ids))
    assert sorted(names) == ["##e", "##mion", "##ry", "har"]
    assert targets.dropped == {"her": pytest.approx(2 / 3)}
    assert targets.unmasked == ("her",)
    everything = target_tokens(["x"], background, tokenizer, words="hermione", max_document_frequency=1)
    assert "her" in tokenizer.convert_ids_to_tokens(list(everything.token_ids))
    assert everything.dropped == {}


def test_words_come_from_a_function_or_a_list_and_unknown_ones_are_no_target() -> None:
    seen = []

    def recogniser(documents: list[str]) -> set[str]:
        seen.extend(documents)
        return {"harry"}

    found = target_tokens(["harry met her"], ["a day"], pieces(), words=recogniser)
    assert seen == ["harry met her"]
    assert found == target_tokens(["harry met her"], ["a day"], pieces(), words=["harry"])
    with pytest.raises(InvalidInputError, match="rare elsewhere"):
        target_tokens(["x"], ["a day"], pieces(), words=["qqq"])  # the unknown token is everybody's
    with pytest.raises(InvalidInputError, match="background_texts"):
        target_tokens(["x"], [], pieces())
    with pytest.raises(InvalidInputError, match="forget_texts"):
        target_tokens("harry", ["a day"], pieces())


# Retain sets


def test_nearest_is_the_first_without_the_documents_entities() -> None:
    candidates = ["Ron plays chess at home", "a girl plays chess at school", "the weather is fine", "chess is hard"]
    documents = ["Ron plays chess at home", "fine weather with Harry Potter"]
    assert nearest_without_shared(documents, candidates, ["ron", "harry potter"]) == [1, 2]
    # Control: without entities the first document's nearest is another one.
    assert nearest_without_shared(documents, candidates, []) == [0, 2]
    finder = lambda text: [word for word in text.split() if word.istitle()]  # noqa: E731
    assert nearest_without_shared(documents, candidates, finder) == [1, 2]
    # A name is no part of a word, and one of two words is no part of either.
    assert nearest_without_shared(["chess of on"], ["chess with Ron"], ["on"]) == [0]
    assert nearest_without_shared(["harry potter"], ["a potter"], ["harry potter"]) == [0]
    with pytest.raises(InvalidInputError, match=r"documents \[2\]"):
        nearest_without_shared(["x", "Ron"], ["Ron"], ["ron"])
    with pytest.raises(InvalidInputError, match="candidates"):
        nearest_without_shared(["x"], [], [])


@pytest.mark.parametrize("said", ["Harry's", "HARRY\u2019S", "Harry-like", "half-Harry", "Harry"])
@pytest.mark.parametrize("named", ["harry", "Harry\u2019s"])
def test_possessives_and_hyphens_hide_no_name(said: str, named: str) -> None:
    candidates = [f"the boy has {said} owl", "Harrys owl"]
    for document in ("Harry has the owl", "the owl is Harry's", f"{said} owl, the boy has it"):
        for entities in ([named], named, lambda text: [named]):
            assert nearest_without_shared([document], candidates, entities) == [1]
    assert nearest_without_shared(["O\u2019Brien has an owl"], ["the owl of O'Brien", "an owl"], "O'Brien") == [1]


def test_forms_of_a_word_are_counted_as_one() -> None:
    forget = ["Harry's owl", "the Harry\u2019s owl", "half-Harry", "Harry"]
    assert frequent_words(forget, ["the owl", "half"] * 9, min_ratio=10, min_count=4) == ["Harry"]
    background = ["Harry's"] * 20  # it is as common there
    assert frequent_words(forget, background, min_ratio=2, min_count=4) == []


def test_triples_are_read_from_files_and_lists_and_become_rows(tmp_path) -> None:
    forget = [{"question": row["prompt"], "answer": row["answer"]} for row in FORGET[:6]]
    (tmp_path / "generic.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts(RETAIN[:9])))
    (tmp_path / "world.txt").write_text("\n\n".join(texts(RETAIN[9:13])) + "\n")
    names = [facts.NAMES[i] for i in facts.FORGET]
    triples = retain_triples(forget, tmp_path / "generic.jsonl", str(tmp_path / "world.txt"), entities=names)
    assert [len(part) for part in (triples.generic, triples.style, triples.world)] == [6, 6, 6]
    assert sorted(map(text_of, triples.style)) == sorted(map(text_of, triples.generic))
    counts = [list(map(text_of, triples.world)).count(t) for t in texts(RETAIN[9:13])]
    assert sorted(counts) == [1, 1, 2, 2]
    # The same question about somebody else.
    assert text_of(triples.generic[0]).split()[:2] == FORGET[0]["prompt"].split()[:2]
    rows = triples.rows(facts.tokenizer(), bos=True)
    assert set(rows) == {"generic", "style", "world"}
    assert rows["generic"][0]["labels"][1:] == rows["generic"][0]["input_ids"][1:]
    given = {"forget_dataset": FORGET[:6], "paired": rows}
    make(model=facts.fresh(), objective=obliviate(VALUES), given=given, max_steps=1).train()
    style = retain_triples(forget, as_records(texts(RETAIN[:9])), ["a fact"], ["a verse"], entities=names).style
    assert [text_of(record) for record in style] == ["a verse"] * 6
    with pytest.raises(DatasetNotFoundError):
        as_records(tmp_path / "none.txt")
    with pytest.raises(InvalidInputError, match="at least one"):
        as_records([])


# The objective


def test_value_is_the_papers_by_hand() -> None:
    rng = np.random.default_rng(0)
    z, ref = ({p: rng.normal(size=(2, 3, 5)) for p in ("forget", "generic", "style", "world")} for _ in range(2))
    mask = np.array([[True, True, False], [True, False, False]])

    def predictions(logits: dict) -> dict[str, Prediction]:
        return {
            part: Prediction(log_prob=torch.zeros(2, 3), logits=torch.tensor(value), mask=torch.tensor(mask))
            for part, value in logits.items()
        }

    def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return rel_entr(softmax(p, -1), softmax(q, -1)).sum(-1)

    for mode, fill in (("default", -np.inf), ("paper", 0.0)):
        ruled = z["forget"].copy()
        ruled[..., [1, 3]] = fill
        forget = kl(ruled, z["forget"])[mask].sum() / (2 if mode == "paper" else 3)  # texts, tokens
        held = sum(((z[p] - ref[p]) ** 2).mean(-1)[mask].mean() for p in ("generic", "style"))
        world = kl(ref["world"], z["world"])[mask].mean()
        hard = -log_softmax(z["world"], -1)[mask][np.arange(3), ref["world"][mask].argmax(-1)].mean()
        for hard_labels, last in ((False, world), (True, hard)):
            objective = obliviate((1, 3), mode=mode, hard_labels=hard_labels)
            value = objective(predictions(z), predictions(ref)).total
            assert value.item() == pytest.approx(forget + 0.2 * held + 0.7 * last, rel=1e-6)
    assert obliviate((1, 3), l1=0, l2=0).parts == ("forget",)


def test_first_choice_has_no_gradient_where_nothing_is_due() -> None:
    logits = torch.randn(2, 3, 5, requires_grad=True)
    mask = torch.tensor([[True, False, False], [False, False, False]])
    both = [Prediction(log_prob=torch.zeros(2, 3), logits=x, mask=mask) for x in (logits, torch.randn(2, 3, 5))]
    FirstChoice()({"world": both[0]}, {"world": both[1]}).backward()
    assert (logits.grad != 0).any(-1).equal(mask)


def test_wrong_settings_are_refused() -> None:
    for wrong in ({"token_ids": ()}, {"token_ids": (1,), "l1": -1}, {"token_ids": (1,), "mode": "code"}):
        with pytest.raises(InvalidInputError):
            obliviate(**wrong)
    with pytest.raises(InvalidInputError, match="5 layers"):
        obliviate_settings(4)


def test_the_papers_settings_are_arguments_of_trainer_and_adapter() -> None:
    options, adapter = obliviate_settings(6)
    made = arguments(**options)
    assert made.get_warmup_steps(200) == 20
    model = get_peft_model(tiny(num_hidden_layers=6), adapter)
    blocks = {name.split("layers.")[1][0] for name, p in model.named_parameters() if p.requires_grad}
    assert blocks == {"4", "5"}
    schedule = made.lr_scheduler_type, made.lr_scheduler_kwargs
    assert (made.learning_rate, *schedule) == (3e-4, "cosine_with_min_lr", {"min_lr_rate": 0.1})


# What it does


def unlearned(objective: Objective) -> torch.nn.Module:
    given = {"retain_dataset": None, "drawn": DRAWN}
    trainer = make(objective=objective, given=given, max_steps=10, per_device_train_batch_size=24)
    trainer.train()
    return trainer.model


@pytest.fixture(scope="module")
def done() -> torch.nn.Module:
    return unlearned(obliviate(VALUES))


def test_the_forgotten_goes_and_the_rest_stays(done: torch.nn.Module) -> None:
    full = facts.full()
    assert facts.value_prob(full, FORGET) > 0.9
    assert drma(token_scores(done, FORGET)) < drma(token_scores(full, FORGET)) - 0.5
    assert facts.value_prob(done, FORGET) < 0.03
    assert facts.accuracy(done, FORGET) == 0
    assert facts.value_prob(done, RETAIN) > 0.85


def test_without_the_mask_nothing_is_forgotten() -> None:
    kept = unlearned(obliviate(VALUES) - MaskedVocabulary(VALUES))
    assert facts.accuracy(kept, FORGET) == 1


def test_without_distillation_and_world_facts_the_rest_goes_too() -> None:
    alone = unlearned(obliviate(VALUES, l1=0, l2=0))
    assert facts.value_prob(alone, FORGET) < 0.03
    assert facts.value_prob(alone, RETAIN) < 0.5


def test_without_world_facts_the_world_drops_more(done: torch.nn.Module) -> None:
    world = DRAWN["world"]
    assert facts.value_prob(unlearned(obliviate(VALUES, l2=0)), world) < facts.value_prob(done, world) - 0.1
