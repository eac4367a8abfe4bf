"""The ledger and the rules over it: budgets, repeats, batches, rates, windows, restarts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from veilscore.errors import RefusedError, StateError
from veilscore.release.budget import ReleaseBudget, how_often, models_of
from veilscore.release.ledger import BATCH, DAY_S, EVALUATION, EXACT_BITS, ONLINE, Release, ReleaseLedger, firms_by_bits
from veilscore.terms.policy import NodePolicy
from veilscore.terms.rules import ReleaseRules


class Clock:
    now_s = 1_000_000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(tmp_path, clock):
    ledger = ReleaseLedger(tmp_path / "release.db", clock=clock)
    yield ledger
    ledger.close()


def release(ledger, firms, *, model="m1", kind=BATCH, reference="r1", code_map=None, record=b"", bank="bank"):
    hashes = np.unique(ledger.firms([f"f{k}" for k in firms]))
    rows = hashes[:0] if kind == ONLINE else np.unique(ledger.firms([f"row {k}" for k in firms]))
    return Release(kind, bank, reference, model, code_map or f"map of {model}", hashes, record, rows=rows)


def budget(ledger, n_columns=20, **rules):
    return ReleaseBudget(ledger, ReleaseRules(**rules), n_columns)


def single(ledger, model, reference, *, firm=1, record=b"codes", **more):
    return release(ledger, [firm], model=model, kind=ONLINE, reference=reference, record=record, **more)


def test_default_budget_is_well_below_the_columns():
    rules = ReleaseRules()
    assert [rules.models_allowed(d) for d in (1, 4, 8, 12, 20, 100)] == [1, 1, 2, 3, 5, 5]
    assert [rules.evaluations_allowed(d) for d in (1, 4, 5, 8, 20)] == [2, 3, 3, 4, 10]  # three: card, trees, stack
    for d in range(4, 60):
        most = max(rules.models_allowed(d) * (1 + rules.repeats_per_model), rules.evaluations_allowed(d))
        assert most < d
    assert NodePolicy().release.control == "on"
    assert NodePolicy().consent == "required"
    assert NodePolicy(consent=False).consent == "off"


def test_a_model_and_its_successor_pass_where_scores_are_in_steps(ledger):
    """Of five columns one exact model is told a year; of steps the bits are bounded, ten a year."""
    rules = budget(ledger, 5)
    for k in (1, 2):
        rules.admit(replace(single(ledger, f"m{k}", f"r{k}"), bits=5.0))
    with pytest.raises(RefusedError, match="2 other models"):
        rules.admit(replace(single(ledger, "m3", "r3"), bits=5.0))
    told = firms_by_bits(ledger.releases(0.0))
    assert told == {"bank": {10.0: 1}}
    again = replace(single(ledger, "m1", "again"), bits=5.0)
    assert rules.check_single(again, fresh=False) == "r1"  # the same model on the same record: what was told then
    rules.admit(single(ledger, "e1", "r4", firm=2))
    with pytest.raises(RefusedError, match="1 other models"):
        rules.admit(single(ledger, "e2", "r5", firm=2))


def test_distinct_models_of_a_firm_are_bounded(ledger):
    rules = budget(ledger, 8)  # two models
    for k in (1, 2):
        rules.admit(single(ledger, f"m{k}", f"r{k}"))
    with pytest.raises(RefusedError, match="2 other models"):
        rules.admit(single(ledger, "m3", "r3"))
    rules.admit(single(ledger, "m3", "r4", firm=2))  # another firm has a budget of its own
    rules.admit(single(ledger, "m2", "r5"))  # a model that it had is no new one
    batch = release(ledger, range(1, 60), model="m4", reference="r6")
    rules.check_batch(batch)  # its rows are new ones: a refusal would tell that firm 1 is known here
    assert rules.used_up(batch).tolist() == ledger.firms(["f1"]).tolist()
    with pytest.raises(RefusedError, match="meanwhile"):  # it has to be scored as unknown instead
        rules.admit(batch)


def test_rows_that_came_before_refuse_a_batch_whether_they_are_known_or_not(ledger):
    rules = budget(ledger, 8)  # two models
    for known in (range(60), range(60, 60)):
        for k in (1, 2, 3):
            rows = np.unique(ledger.firms([f"row {known} {j}" for j in range(60)]))
            hashes = np.unique(ledger.firms([f"f{j}" for j in known]))
            one = Release(BATCH, "bank", f"r{k} {known}", f"m{k}", f"map {k}", hashes, rows=rows)
            if k == 3:
                with pytest.raises(RefusedError, match="2 other models"):
                    rules.admit(one)
            else:
                rules.admit(one)


def test_batches_make_a_single_firm_unknown_and_refuse_nothing(ledger):
    """Whether they did refuses nothing that is asked singly, or it would tell that the firm is known."""
    rules = budget(ledger, 8, bits_per_year=10)  # two models
    for k in (1, 2):
        rules.admit(release(ledger, range(40), model=f"m{k}", reference=f"b{k}"))
    for firm in (1, 999):
        assert rules.check_single(single(ledger, "m3", f"s{firm}", firm=firm), fresh=False) == ""
        assert rules.single_used_up(single(ledger, "m3", f"s{firm}", firm=firm)) == (firm == 1)
    with pytest.raises(RefusedError, match="meanwhile"):
        rules.admit(single(ledger, "m3", "s1"))
    for firm in (1, 999):  # asked singly, both come to the same end
        for k in (3, 4):
            rules.admit(single(ledger, f"m{k}", f"s{k} {firm}", firm=firm), as_unknown=firm == 1)
        with pytest.raises(RefusedError, match="2 other models"):
            rules.admit(single(ledger, "m5", f"s5 {firm}", firm=firm), as_unknown=firm == 1)
    told = replace(single(ledger, "m9", "t", firm=207), bits=6.0)
    rules.admit(replace(release(ledger, range(200, 250), model="m9", reference="b7"), bits=5.0))
    assert rules.check_single(told, fresh=False) == ""
    assert rules.single_used_up(told)


def test_a_changed_key_of_digests_is_noticed(ledger):
    assert ledger.same_key("bank", b"a" * 32)
    assert ledger.same_key("bank", b"a" * 32)
    assert ledger.same_key("other", b"b" * 32)
    assert not ledger.same_key("bank", b"b" * 32)
    assert ledger.same_key("bank", b"b" * 32)


def test_the_same_again_is_answered_from_the_first(ledger):
    rules = budget(ledger)
    assert rules.check_single(single(ledger, "m1", "bank/r1"), fresh=False) == ""
    rules.admit(single(ledger, "m1", "bank/r1"))
    assert rules.check_single(single(ledger, "m1", "bank/r2"), fresh=False) == "bank/r1"
    assert rules.check_single(single(ledger, "m1", "bank/r1"), fresh=False) == ""  # a retry under its own id
    assert rules.check_single(single(ledger, "m1", "other/r2", bank="other"), fresh=False) == ""
    assert rules.check_single(single(ledger, "m1", "bank/r2", record=b"changed"), fresh=False) == ""
    assert rules.check_single(single(ledger, "m1", "bank/r2"), fresh=True) == ""


def test_openings_are_few(ledger):
    rules = budget(ledger)
    for k in range(3):
        rules.admit(single(ledger, "m1", f"r{k}"))
    with pytest.raises(RefusedError, match="opened too often"):
        rules.admit(single(ledger, "m1", "r9"))


def test_all_openings_together_stay_below_the_columns(ledger):
    rules, opened = budget(ledger, 8), 0
    for model in ("m1", "m2", "m3", "m4"):
        for kind in (EVALUATION, ONLINE, ONLINE, ONLINE):
            try:
                if kind == EVALUATION:
                    rules.admit(release(ledger, range(1, 40), model=model, kind=kind, reference=f"r{opened} {model}"))
                else:
                    rules.admit(single(ledger, model, f"r{opened} {model} one"))
                opened += 1
            except RefusedError:
                pass
    assert 0 < opened <= 6


def test_hold_out_scores_and_the_model_after_them_are_one(ledger):
    rules = budget(ledger, 4, evaluations_per_firm=2)  # one model, two with hold-outs
    rules.admit(release(ledger, range(50), model="before", kind=EVALUATION, reference="e1", code_map="A"))
    rules.check_single(single(ledger, "calibrated", "r1", code_map="A"), fresh=False)
    rules.admit(release(ledger, range(50), model="x", kind=EVALUATION, reference="e2", code_map="B"))
    with pytest.raises(RefusedError, match="2 other models"):
        rules.check_batch(release(ledger, range(50), model="y", kind=EVALUATION, reference="e3", code_map="C"))
    assert rules.single_used_up(single(ledger, "z", "r2", code_map="C"))
    assert not rules.single_used_up(single(ledger, "calibrated", "r1", code_map="A"))
    rules.admit(single(ledger, "calibrated", "r1", code_map="A"))
    with pytest.raises(RefusedError):  # a second model on the same map is a model of its own
        rules.check_single(single(ledger, "another", "r3", code_map="A"), fresh=False)


def test_batches_differ_by_none_or_many(ledger):
    rules = budget(ledger, min_difference=30, repeats_per_model=9)
    rules.admit(release(ledger, range(100)))
    rules.check_batch(release(ledger, range(100), reference="r2"))
    for firms in (range(99), range(1, 101), range(129), [*range(90), *range(200, 219)]):
        with pytest.raises(RefusedError, match="differs from an earlier one"):
            rules.check_batch(release(ledger, firms, reference="r2"))
    rules.check_batch(release(ledger, range(130), reference="r2"))
    rules.check_batch(release(ledger, range(70), reference="r2"))
    rules.check_batch(release(ledger, range(99), model="m2", reference="r2"))
    rules.admit(release(ledger, range(130), reference="r3"))
    with pytest.raises(RefusedError, match="differs"):  # against every earlier one, not the last alone
        rules.check_batch(release(ledger, range(101), reference="r4"))


def test_small_batches_bands_and_rates(ledger, clock):
    with pytest.raises(RefusedError, match="fewer than 30"):
        budget(ledger).check_batch(release(ledger, range(29)))
    for check in (
        lambda b: b.check_batch(release(ledger, range(60))),
        lambda b: b.check_single(single(ledger, "m1", "r1"), fresh=False),
    ):
        with pytest.raises(RefusedError, match="bands only"):
            check(budget(ledger, output="band"))
        check(budget(ledger, output="band", control="off"))
    banded = replace(release(ledger, range(60)), band=True)
    budget(ledger, output="band").check_batch(banded)
    rules = budget(ledger, online_per_hour=2, batches_per_day=1)
    rules.admit(release(ledger, range(60), reference="b"))
    with pytest.raises(RefusedError, match="1 batches a day"):
        rules.check_batch(release(ledger, range(60), reference="c"))
    for k in (1, 2):
        rules.admit(single(ledger, "m1", f"r{k}", firm=1000 + k))
    with pytest.raises(RefusedError, match="2 single firms an hour"):
        rules.check_single(single(ledger, "m1", "r3", firm=2000), fresh=False)
    rules.check_single(single(ledger, "m1", "r3", firm=2000, bank="other"), fresh=False)
    clock.now_s += 3601
    rules.check_single(single(ledger, "m1", "r3", firm=2000), fresh=False)


def test_a_request_id_counts_one_record_and_is_free_for_an_hour(ledger, clock):
    """A journal forgets, or is moved away as damaged: the ledger took the id as paid for, whatever the record was."""
    rules = budget(ledger)
    first = replace(single(ledger, "m1", "bank/r1"), bits=5.0)
    rules.admit(first)
    clock.now_s += 3000
    rules.admit(first)  # of a request that was cut in two
    for other in (replace(first, record=b"changed"), replace(first, bits=6.0), replace(first, code_map="other")):
        with pytest.raises(RefusedError, match="another release was counted under this request id"):
            rules.admit(other)
    clock.now_s += 700
    with pytest.raises(RefusedError, match="counted under this request id long ago; use a new one"):
        rules.admit(first)
    assert len(ledger.releases(0.0)) == 1


def test_a_request_that_was_counted_goes_on_at_the_limit(ledger):
    rules = budget(ledger, online_per_hour=1)
    rules.admit(single(ledger, "m1", "bank/r1"))
    rules.admit(single(ledger, "m1", "bank/r1"))
    with pytest.raises(RefusedError, match="rate limit of 1 single firms an hour"):
        rules.admit(single(ledger, "m1", "bank/r2"))


def test_more_bits_of_the_same_record_are_no_repeat(ledger):
    """A steward lets codes of one more column go: they are told, and counted, with a new opening."""
    rules = budget(ledger)
    rules.admit(replace(single(ledger, "m1", "bank/r1"), bits=3.0))
    assert rules.check_single(replace(single(ledger, "m1", "bank/r2"), bits=3.0), fresh=False) == "bank/r1"
    assert not rules.check_single(replace(single(ledger, "m1", "bank/r2"), bits=5.0), fresh=False)


def test_old_releases_do_not_count(ledger, clock):
    rules = budget(ledger, 4, window_days=30)
    rules.admit(single(ledger, "m1", "r1"))
    with pytest.raises(RefusedError):
        rules.check_single(single(ledger, "m2", "r2"), fresh=False)
    clock.now_s += 31 * DAY_S
    rules.check_single(single(ledger, "m2", "r2"), fresh=False)


def test_switched_off_nothing_is_refused(ledger):
    rules = budget(ledger, 4, control="off")
    ledger.add(single(ledger, "m1", "r1"))
    assert rules.check_single(single(ledger, "m2", "r2"), fresh=False) == ""
    rules.check_batch(release(ledger, range(2), reference="r3"))


def test_the_ledger_survives_restarts_and_other_processes(tmp_path, ledger, clock):
    rules = budget(ledger, 4)
    rules.admit(single(ledger, "m1", "r1"), ("portal", "a" * 32))
    again = ReleaseLedger(tmp_path / "release.db", clock=clock)
    assert again.firms(["f1"]) == ledger.firms(["f1"])
    assert again.token_used("portal", "a" * 32, "r2")
    with pytest.raises(RefusedError):
        budget(again, 4).check_single(single(again, "m2", "r2"), fresh=False)
    budget(again, 4).admit(single(again, "m1", "r3", firm=7))
    assert len(ledger.of_firm(int(ledger.firms(["f7"])[0]), 0)) == 1
    again.close()
    assert (tmp_path / "release.db").stat().st_mode & 0o777 == 0o600
    assert b"f1" not in (tmp_path / "release.db").read_bytes()


def test_a_token_used_meanwhile_leaves_no_release(ledger):
    rules = budget(ledger)
    rules.admit(single(ledger, "m1", "r1"), ("portal", "a" * 32))
    with pytest.raises(RefusedError, match="another request"):
        rules.admit(single(ledger, "m1", "r2", firm=2), ("portal", "a" * 32))
    assert len(ledger.releases(0)) == 1


def test_a_job_keeps_its_model(ledger):
    ledger.pin_model("job", "m1")
    ledger.pin_model("job", "m1")
    ledger.pin_model("other", "m2")
    with pytest.raises(RefusedError, match="model version differs"):
        ledger.pin_model("job", "m2")


def test_counting_is_that_of_plain_python(ledger):
    rng = np.random.default_rng(5)
    past = [
        release(ledger, rng.integers(0, 60, 40), model=f"m{k % 3}", reference=f"r{k}", code_map="one") for k in range(9)
    ]
    wanted = ledger.firms([f"f{k}" for k in range(60)])
    groups = models_of(past)
    assert len(groups) == 3
    counted = sum(how_often(wanted, firms) for firms in groups.values())
    assert counted.tolist() == [sum(int(firm in r.firms) for r in past) for firm in wanted]


def test_a_damaged_ledger_releases_nothing(tmp_path):
    path = tmp_path / "release.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StateError, match="nothing is released"):
        ReleaseLedger(path)
    with pytest.raises(StateError):
        ReleaseLedger(tmp_path / "release.db" / "below" / "release.db")


# --- bits ------------------------------------------------------------------------------------------------------------


def coarse(ledger, firms, reference, *, model="m1", inputs=b"i" * 32, codes=(1, 2), bits=5.0, **more):
    """A batch of steps of firms that all have the same codes."""
    one = release(ledger, firms, model=model, reference=reference, **more)
    records = ledger.record_digests(one.firms, inputs, np.tile(np.array(codes, np.uint8), (one.firms.size, 1)))
    return replace(one, bits=bits, inputs=inputs, records=records)


MANY = {"models_per_firm": 99, "repeats_per_model": 99, "min_difference": 1}


def test_batches_and_requests_share_the_bits_of_a_year(ledger, clock):
    rules = budget(ledger, **MANY)
    rules.admit(coarse(ledger, range(40), "b1"))
    rules.admit(replace(single(ledger, "m2", "r1", firm=3), bits=5.0))
    third = coarse(ledger, range(40), "b2", model="m3")
    rules.check_batch(third)  # that a firm was asked for singly is not in the bank's rows
    assert rules.used_up(third).tolist() == ledger.firms(["f3"]).tolist()
    with pytest.raises(RefusedError, match="meanwhile"):
        rules.admit(third)
    assert not rules.used_up(coarse(ledger, range(40), "b2", bits=0.0)).size
    fewer = replace(coarse(ledger, [*range(3), *range(4, 40)], "b2", model="m3"))
    rules.admit(fewer)
    assert rules.single_used_up(replace(single(ledger, "m4", "r2", firm=5), bits=1.0))
    assert not rules.single_used_up(replace(single(ledger, "m4", "r2", firm=3, bank="other"), bits=5.0))
    with pytest.raises(RefusedError, match="more than 10 bits would be told within a year"):
        rules.check_batch(coarse(ledger, range(40), "b3", model="m5"))
    rules.check_batch(coarse(ledger, range(40), "b3", model="m5", bank="other"))
    rules.check_batch(
        replace(coarse(ledger, range(40), "b3", model="m5"), bits=EXACT_BITS)
    )  # exact scores are agreed apart
    clock.now_s += 366 * DAY_S
    rules.admit(coarse(ledger, range(40), "b3", model="m5"))


def test_a_repeat_is_free_where_nothing_changed(ledger):
    rules = budget(ledger, **MANY)
    for k in range(6):
        rules.admit(coarse(ledger, range(40), f"b{k}"))
    assert not rules.single_used_up(replace(single(ledger, "m1", "r", firm=1), bits=5.0))
    for k, change in enumerate(({"inputs": b"j" * 32}, {"code_map": "other cut-offs"}, {"model": "m2"})):
        two = budget(ledger, bits_per_year=9.9, **MANY)
        with pytest.raises(RefusedError, match=r"9\.9 bits"):
            two.check_batch(coarse(ledger, range(40), f"c{k}", **change))
    # a record that changed refuses nothing: it would tell that the firm is known
    changed = coarse(ledger, range(40), "d", codes=(2, 2))
    two.check_batch(changed)
    assert two.used_up(changed).size == 40
    assert not rules.used_up(changed).size
    rules.admit(changed)
    assert rules.used_up(coarse(ledger, range(40), "e", codes=(3, 2))).size == 40
    assert not rules.used_up(coarse(ledger, range(40), "e", codes=(2, 2))).size


def test_online_each_opening_is_charged_also_of_the_same_record(ledger):
    """Another holder's data, or what the bank puts in, may have changed: the same record then tells more."""
    rules = budget(ledger, **MANY)
    for k in range(2):
        rules.admit(replace(single(ledger, "m1", f"r{k}", firm=1), bits=5.0))
    again = replace(single(ledger, "m1", "r2", firm=1), bits=5.0)
    assert rules.check_single(again, fresh=False).endswith("r1")  # what was opened before is free
    with pytest.raises(RefusedError, match=r"10\.0 bits of this firm were told within a year"):
        rules.check_single(again, fresh=True)
    assert firms_by_bits(ledger.releases(0.0)) == {"bank": {10.0: 1}}


def test_bits_are_those_of_plain_python(ledger):
    rng, told = np.random.default_rng(8), {}
    rules = budget(ledger, bits_per_year=12, **MANY)
    for k in range(40):
        firms, model, bits = (
            np.unique(rng.integers(0, 30, 20)).tolist(),
            f"m{rng.integers(3)}",
            float(rng.integers(1, 6)),
        )
        inputs, codes = bytes([rng.integers(2)]) * 32, (int(rng.integers(2)), 1)
        one = coarse(
            ledger, firms, f"b{k}", model=model, inputs=inputs, codes=codes, bits=bits, code_map=f"{model} {bits}"
        )
        key = (model, bits, inputs, codes)
        over = [
            firm for firm in firms if key not in told.get(firm, {}) and sum(told.get(firm, {}).values()) + bits > 12
        ]
        assert sorted(rules.used_up(one).tolist()) == sorted(ledger.firms([f"f{firm}" for firm in over]).tolist())
        left = [firm for firm in firms if firm not in over]
        ledger.add(
            coarse(
                ledger, left, f"b{k}", model=model, inputs=inputs, codes=codes, bits=bits, code_map=f"{model} {bits}"
            )
        )
        for firm in left:
            told.setdefault(firm, {})[key] = bits
            asked = single(ledger, "x", "r", firm=firm)
            before = rules._bits_before(asked, rules._of_firm(asked))
            assert before == sum(told[firm].values())
    assert {len(one) for one in told.values()} != {1}
