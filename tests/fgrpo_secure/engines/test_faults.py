"""Injected faults: what is configured happens, about as often as configured, and the same way each time."""

from fgrpo_secure.engines.faults import Faults


def arrivals(probabilities, messages=2000, step="mask"):
    faults = Faults(probabilities, seed=1)
    return [list(faults.deliver(attempt, step, 0, b"payload")) for attempt in range(messages)]


def test_without_faults_every_message_arrives_once_and_unchanged():
    assert arrivals({}, 50) == [[(0, b"payload")]] * 50


def test_a_step_alone_means_lost():
    lost = sum(not arrived for arrived in arrivals({"mask": 0.25}))
    assert 400 < lost < 600  # 500 expected, standard deviation 19
    assert arrivals({"mask": 0.25}, 20, step="share") == [[(0, b"payload")]] * 20


def test_duplicates_arrive_twice_and_corrupt_messages_differ_in_one_byte():
    assert arrivals({"mask.duplicate": 0.999999}, 5) == [[(0, b"payload")] * 2] * 5
    for arrived in arrivals({"mask.corrupt": 0.999999}, 20):
        ((_, data),) = arrived
        assert sum(one != other for one, other in zip(data, b"payload", strict=True)) == 1


def test_the_same_seed_gives_the_same_faults():
    assert arrivals({"mask": 0.5}, 200) == arrivals({"mask": 0.5}, 200)
