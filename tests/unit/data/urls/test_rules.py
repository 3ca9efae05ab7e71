"""One-rule classifiers predict the most frequent class of the training samples with the same value."""

from __future__ import annotations

from dbbd_cli.data.urls.rules import one_rule_predictions, url_properties


def test_properties_of_a_url() -> None:
    assert url_properties("HTTPS://www.a.example.co/x?y=1.2") == {
        "scheme": "https://",
        "www.": "True",
        "length": 32,
        "has a path": "True",
        "has a query": "True",
        "dots": 4,
        "TLD": "co",
    }
    bare = url_properties("a.de/")
    assert (bare["scheme"], bare["www."], bare["has a path"], bare["has a query"]) == ("", "False", "False", "False")
    assert url_properties("")["length"] == 0


def test_the_rule_of_a_word_and_of_a_number() -> None:
    train = [{"word": "a", "number": 1, "same": "x"}] * 3 + [{"word": "b", "number": 9, "same": "x"}] * 4
    labels = [0, 0, 1, 1, 1, 1, 0]
    samples = [{"word": "a", "number": 9, "same": "x"}, {"word": "new", "number": 2, "same": "y"}]
    found = one_rule_predictions(train, labels, samples)
    assert set(found) == {"word", "number"}  # a property that never varies is no rule
    assert found["word"].tolist() == [0, 1]  # unknown: the most frequent class
    assert found["number"].tolist() == [1, 0] or found["number"].tolist() == [1, 1]
