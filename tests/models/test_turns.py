import copy
import threading

import pytest

from vpt.models.turns import Turns


def in_thread(do) -> threading.Thread:
    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    return thread


def test_uses__of_two_threads__are_at_the_same_time():
    turns, both = Turns(), threading.Barrier(2, timeout=10)

    def use():
        with turns.using:
            both.wait()

    thread = in_thread(use)
    use()
    thread.join()


def test_a_change__waits_for_the_uses_that_began__and_keeps_later_ones_waiting():
    turns, order = Turns(), []

    def change():
        with turns.changing():
            order.append("change")

    def use():
        with turns.using:
            order.append("later use")

    with turns.using:
        changing = in_thread(change)
        while not turns._waiting:  # begun, and waiting
            pass
        later = in_thread(use)
        with turns.using:  # one of the same thread does not wait for the change
            order.append("inner use")
        order.append("use")
    changing.join()
    later.join()
    assert order == ["inner use", "use", "change", "later use"]


def test_a_change_inside_of_a_use__is_refused__as_it_would_wait_for_itself():
    turns = Turns()
    with turns.using, pytest.raises(RuntimeError, match="inside of a use"), turns.changing():
        pass
    with turns.changing(), pytest.raises(RuntimeError, match="of another change"):
        turns.changing().__enter__()
    with turns.changing():  # both errors left nothing behind
        pass


def test_an_error_inside__gives_the_turn_back():
    turns = Turns()
    for turn in (lambda: turns.using, turns.changing):
        with pytest.raises(ValueError, match="mine"), turn():
            raise ValueError("mine")
    with turns.changing():
        pass


def test_a_copy__is_a_lock_of_its_own():
    turns = Turns()
    with turns.using, copy.deepcopy(turns).changing():
        pass
