"""The faults the spill store has to bear, by number, and the tests that show it.

    python -m tests.spill.test_faults       # the table; `5` or more numbers: to run their tests

The outcome is always the same: what is read is what was written, what cannot be read is named
with its offsets, who could not write keeps its records, and the next start succeeds. A file with
`*` is there with all of its tests.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent

#: Tests of the tests.
OTHERS = {"test_faults.py", "test_seeds.py", "test_mutations.py"}


TABLE = """
 1 a crash, or an error, at every operation of the file system
   spill/test_crashes.py
      test_a_crash_at_every_operation_leaves_what_was_written_or_says_what_is_gone
      test_a_crash_at_every_operation_of_a_disk_in_trouble_is_recovered_from
      test_an_error_at_every_operation_is_a_state_and_no_surprise
      test_a_worker_that_crashes_anywhere_loses_nothing_and_repeats_little
      test_a_worker_that_crashes_at_every_operation_loses_nothing_and_repeats_little
 2 a last frame that is torn at any byte
   spill/test_flips.py
      test_a_file_cut_off_at_every_byte_is_found_and_costs_what_was_cut
      test_a_segment_of_nothing_but_its_header_cut_off_is_quarantined
   unit/spill/test_recovery.py
      test_a_tail_torn_at_any_byte_costs_the_last_frame_only
 3 writes that were not synced: left out, in another order, a new file missing
   spill/test_crashes.py
      test_a_power_cut_costs_only_what_it_names
      test_what_was_on_the_platter_survives_a_power_cut
      test_a_file_whose_name_never_reached_the_platter_is_no_damage
      test_a_later_write_that_comes_before_an_earlier_one_costs_the_earlier_one
   spill/test_seeds.py
      test_500_seeds_lose_nothing
 4 a bit flipped in every byte: headers, payloads, footer, trailer (there is no ledger)
   spill/test_flips.py
      test_a_flip_in_every_byte_is_found_and_costs_one_frame
      test_a_flip_of_every_bit_is_found_and_costs_one_frame
   unit/spill/test_layout.py
      test_every_flipped_bit_of_a_segment_header_is_noticed
      test_every_flipped_bit_of_a_frame_header_is_noticed
      test_a_trailer_is_read_as_it_was_written_and_every_flip_is_noticed
   unit/spill/test_recovery.py
      test_a_damaged_footer_costs_a_scan_and_nothing_else
 5 a lost page, old blocks, a frame in another place or file
   spill/test_bad_bytes.py
      test_old_blocks_of_a_deleted_file_are_never_taken_for_frames
      test_a_frame_in_the_place_of_another_is_neither
      test_a_lost_page_costs_the_frames_that_it_touches_and_they_are_named
      test_a_frame_that_went_to_another_file_is_no_frame_there_and_lost_here
   unit/spill/test_recovery.py
      test_a_zeroed_page_over_two_frames_costs_these_two
      test_blocks_of_another_segment_are_no_frames
      test_a_frame_that_was_written_elsewhere_is_no_frame_there
 6 lengths that lie: 0, all ones, beyond the file
   spill/test_bad_bytes.py
      test_a_length_that_lies_costs_its_frame_and_no_memory
   unit/spill/test_layout.py
      test_sizes_and_offsets_that_make_no_sense_are_no_header
 7 no room, or no quota of the user, wherever it is noticed
   spill/test_full_disks.py
      test_no_room_is_a_state_and_nothing_is_lost
      test_a_disk_that_fills_up_in_the_middle_of_a_frame_keeps_the_frames_before
      test_a_full_disk_is_not_asked_all_the_time
      test_little_room_is_noticed_before_there_is_none
      test_little_room_costs_no_more_of_what_is_parked_than_it_takes
      test_no_room_for_a_footer_costs_a_scan_and_nothing_else
      test_a_full_disk_at_the_start_costs_nothing_that_is_on_it
      test_a_torn_end_that_cannot_be_cut_off_stays_and_is_no_frame
 8 a sync that fails once and then works
   spill/test_bad_disks.py
      test_nothing_waits_for_the_platter
      test_a_sync_that_fails_once_proves_nothing_by_working_the_next_time
 9 reads that fail or are short, a file cut off while it is read
   spill/test_bad_bytes.py
      test_a_read_that_fails_names_its_offsets_and_the_worker_goes_on
      test_a_file_that_is_cut_off_costs_what_was_cut
      test_a_real_file_that_is_cut_off_while_it_is_read_ends_nobody
   unit/spill/test_store.py
      test_disks_that_take_and_give_a_little_at_a_time_are_good_enough
10 a disk that is read-only, a directory that vanishes or is forbidden, no descriptors
   spill/test_bad_disks.py
      test_a_disk_that_fails_is_left_alone_and_tried_again
      test_a_file_that_cannot_be_opened_is_fetched_again_and_stops_nothing
      test_a_disk_that_returns_other_bytes_is_not_trusted_again
      test_a_directory_that_is_deleted_costs_what_was_in_it_and_is_made_again
      test_a_slot_that_another_worker_took_meanwhile_is_left_to_it
      test_a_directory_that_cannot_be_read_at_the_start_is_read_when_it_can
      test_a_file_that_cannot_be_deleted_still_counts_and_is_tried_again
      test_a_directory_that_is_moved_away_is_made_again_and_locked
      test_a_directory_that_is_deleted_while_it_is_looked_at_is_not_a_broken_disk
      test_a_directory_that_is_deleted_while_a_worker_starts_is_an_empty_one
11 a slow disk, one that hangs
   spill/test_bad_disks.py
      test_a_write_that_hangs_keeps_neither_reading_nor_asking
      test_whatever_hangs_for_who_writes_does_not_hang_for_who_reads
      test_a_read_that_hangs_does_not_keep_the_writer
      test_a_slow_disk_is_no_broken_one
12 kill -9 while records are spilled, drained, deleted, recovered
   spill/test_kill.py *
   spill/test_crashes.py
      test_recovery_that_crashes_at_every_operation_is_recovery_again
   spill/test_seeds.py
      test_500_seeds_lose_nothing
13 partitions revoked or lost while records are spilled, drained, in flight; and back
   spill/test_restarts.py
      test_a_partition_that_comes_back_is_gone_on_with_and_its_frames_are_used
      test_a_partition_that_another_worker_had_meanwhile_is_gone_on_with_where_that_was
      test_what_is_parked_of_one_partition_is_no_other_ones
   unit/spill/test_store.py
      test_a_revoked_partition_is_parked_and_taken_over_where_it_was
      test_what_was_given_up_does_not_come_back_after_a_restart
      test_a_run_is_adopted_once_and_before_anything_newer
14 an offset that was moved, a topic made anew, a log that lost its end, a compacted one
   spill/test_restarts.py
      test_an_offset_that_somebody_moved_is_where_the_worker_goes_on
      test_a_topic_that_was_made_anew_has_nothing_of_the_old_one
      test_a_log_that_lost_its_end_is_another_log_for_what_was_spilled_of_that
      test_a_log_whose_newest_spilled_record_was_compacted_away_is_not_trusted
   unit/spill/test_store.py
      test_the_probe_is_the_newest_record
      test_a_run_is_probed_by_the_newest_frame_that_can_be_read
15 records that Kafka has deleted: what is spilled is the only copy
   spill/test_restarts.py
      test_what_a_worker_has_or_has_pinned_never_makes_room
   spill/test_full_disks.py
      test_what_may_be_the_only_copy_is_kept_and_quarantine_goes_first
   unit/spill/test_store.py
      test_pinned_runs_stay
16 another rule, cluster, version; metadata of commits that is garbage or somebody else's
   spill/test_restarts.py
      test_without_a_rule_or_watermarks_that_agree_records_only_come_again
   unit/spill/test_store.py
      test_what_another_rule_put_into_the_lane_is_not_used
      test_what_was_spilled_for_somebody_else_is_deleted
      test_what_a_lane_spilled_that_is_gone_is_deleted
   unit/settle/test_watermarks.py *
17 two workers in one directory, the lock of a dead one, its number taken again
   unit/spill/test_slot.py *
   unit/spill/test_filesystem.py
      test_a_lock_of_another_process_ends_with_it_however_it_ends
      test_looking_at_a_lock_does_not_free_it
   spill/test_restarts.py
      test_a_lock_file_that_names_a_living_process_keeps_nobody_out_unless_it_holds_it
      test_two_workers_of_one_machine_neither_read_nor_delete_what_is_the_other_ones
18 clocks that jump, another boot
   spill/test_restarts.py
      test_a_clock_that_jumps_expires_nothing_that_was_just_parked
      test_a_wall_clock_that_is_set_neither_expires_nor_keeps_what_is_parked
19 other versions of the format, files of others
   spill/test_restarts.py
      test_a_segment_of_a_later_format_is_left_alone
      test_a_segment_of_a_later_minor_version_is_read
      test_frames_of_a_kind_that_is_not_known_cost_themselves_only
      test_files_of_others_are_neither_read_nor_counted_nor_deleted
   unit/spill/test_layout.py
      test_a_later_major_version_is_told_from_damage
      test_a_later_minor_version_is_read
20 encryption: another key, none, a new one, changed headers, nothing in the clear
   spill/test_keys.py *
   unit/spill/test_cipher.py *
21 a quota reached with parked, pinned, quarantined; deleting slower than writing
   spill/test_full_disks.py
      test_a_quota_is_kept_and_left_again_when_there_is_room
      test_what_nobody_owns_makes_room_the_oldest_first
      test_what_may_be_the_only_copy_is_kept_and_quarantine_goes_first
      test_near_the_quota_parked_runs_go_by_themselves
      test_quarantine_has_a_limit_and_the_oldest_goes
      test_room_that_was_reserved_for_what_never_came_is_given_back
      test_deleting_more_slowly_than_writing_does_not_break_the_quota
      test_a_quota_is_kept_whatever_is_parked_owned_and_finished
   unit/spill/test_quota.py *
22 records that are too large, null, empty, tombstones, very many, with headers
   spill/test_records.py *
   unit/spill/test_payload.py *
23 a thread that dies; what two of them do at the same time
   spill/test_threads.py *
   spill/test_bad_disks.py
      test_another_thread_can_go_on_after_one_that_died
      test_what_ends_a_write_in_the_middle_ends_its_segment
24 corruption that `verify` looks at while a worker goes on
   spill/test_bad_bytes.py
      test_verify_beside_a_worker_changes_nothing_and_names_what_is_lost
      test_what_a_worker_is_just_writing_is_not_called_torn
      test_a_directory_that_is_deleted_while_it_is_verified_is_empty
25 any order of all of these, against a ledger of what is owed
   spill/test_model.py
      TestStore
   spill/test_seeds.py
      test_500_seeds_lose_nothing
      test_12000_seeds_lose_nothing
"""


def faults_in(table: str) -> dict[int, dict[str, list[str]]]:
    """Return by number the names of tests by file; no names are all."""
    found: dict[int, dict[str, list[str]]] = {}
    for line in table.strip().splitlines():
        first = line.split()[0]
        if first.isdigit():
            files = found[int(first)] = {}
        elif ".py" in first:
            names = files[first] = []
        else:
            names.append(first)
    return found


FAULTS = faults_in(TABLE)


def names_in(file: str) -> set[str]:
    """Return the names at the top of a test file: functions and what is assigned."""
    found: set[str] = set()
    for node in ast.parse((TESTS / file).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def test_every_fault_has_its_tests() -> None:
    assert list(FAULTS) == list(range(1, 26))
    assert all(FAULTS.values())


@pytest.mark.parametrize("number", FAULTS)
def test_the_tests_of_a_fault_are_there(number: int) -> None:
    for file, names in FAULTS[number].items():
        missing = set(names) - names_in(file)
        assert not missing, f"tests/{file} has no {missing}"


def test_every_test_here_is_of_a_fault() -> None:
    named: dict[str, set[str]] = {}
    for files in FAULTS.values():
        for file, names in files.items():
            named.setdefault(file, set()).update(names or names_in(file))
    for path in (TESTS / "spill").glob("test_*.py"):
        file = f"spill/{path.name}"
        here = {name for name in names_in(file) if name.startswith("test_")}
        left = here - named.get(file, here)
        assert path.name in OTHERS or not left, f"{file}: of which fault is {left}?"


def addresses(number: int) -> list[str]:
    """Return what pytest is to be given to run the tests of a fault."""
    return [
        f"tests/{file}{name}"
        for file, names in FAULTS[number].items()
        for name in ([f"::{name}" for name in names] or [""])
    ]


def main(arguments: list[str]) -> int:
    """Print the table, or run the tests of some numbers."""
    if not arguments:
        print(TABLE.strip("\n"))
        return 0
    return pytest.main(["-q", *(each for n in arguments for each in addresses(int(n)))])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
