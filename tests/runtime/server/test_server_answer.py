"""Stop texts against a plain search over the whole answer."""

from hypothesis import given, settings
from hypothesis import strategies as some

from switchkd.runtime.server.stop_texts import StopTexts

LETTERS = some.text("ab", min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(pieces=some.lists(LETTERS, max_size=12), stops=some.lists(LETTERS, max_size=3))
def test_a_text_is_cut_where_a_search_finds_the_first_stop(pieces, stops):
    cutter, said = StopTexts(tuple(stops)), ""
    for count, piece in enumerate(pieces, start=1):
        so_far = "".join(pieces[:count])
        places = [so_far.find(stop) for stop in stops if stop in so_far]
        said += cutter.feed(piece)
        if places:
            assert cutter.found and said == so_far[: min(places)]
            return
        assert not cutter.found
        held = so_far[len(said) :]
        assert so_far.startswith(said)
        # What is held back, and no more, is the longest end that may become a stop text.
        ends = [end for size in range(len(so_far) + 1) if (end := so_far[size:]) and is_beginning(end, stops)]
        assert held == (max(ends, key=len) if ends else "")
    assert said + cutter.rest() == "".join(pieces)


def is_beginning(text, stops):
    return any(stop.startswith(text) and stop != text for stop in stops)
