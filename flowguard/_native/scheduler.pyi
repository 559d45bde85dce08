from collections.abc import Sequence
from typing import final

@final
class Scheduler:
    def __init__(
        self,
        lane_count: int,
        *,
        weights: Sequence[int] | None = None,
        cap: float = 0.8,
        floor: float = 0.05,
        record_cost: int = 256,
        deadlines: Sequence[bool] | None = None,
        demote_after_ns: Sequence[int | None] | None = None,
    ) -> None: ...
    def admit(
        self,
        lane: int,
        queue: int,
        handle: int,
        records: int,
        num_bytes: int,
        stamp_ns: int = 0,
        owner: int = -1,
        born_ns: int = ...,
    ) -> None: ...
    def put_back(
        self,
        lane: int,
        queue: int,
        handle: int,
        records: int,
        num_bytes: int,
        stamp_ns: int = 0,
        owner: int = -1,
        born_ns: int = ...,
    ) -> None: ...
    def extract(
        self, lane: int, queue: int, records_max: int, bytes_max: int
    ) -> list[tuple[int, int, int]]: ...
    def sub_queues(self, lane: int) -> list[tuple[int, int, int]]: ...
    def take(
        self,
        lane_mask: int,
        records_max: int,
        bytes_max: int,
        *,
        exclusive: bool = True,
        single_queue: bool = False,
        now_ns: int = 0,
        seats: int = 1,
    ) -> tuple[int, list[tuple[int, int, int, int]]] | None: ...
    def correct(self, lane: int, queue: int, delta_cost: int) -> None: ...
    def set_batch_records(self, lane: int, records_max: int) -> None: ...
    def open(self, lane: int, queue: int) -> None: ...
    def close(self, lane: int, queue: int) -> None: ...
    def drop_queue(self, queue: int) -> list[int]: ...
    def drop_owner(self, owner: int) -> list[int]: ...
    def ready_records(self, lane: int) -> int: ...
    def demoted_records(self, lane: int) -> int: ...
    def queued_records(self, lane: int) -> int: ...
    def queued_bytes(self, lane: int) -> int: ...
    def head(self, lane: int, queue: int) -> tuple[int, int] | None: ...
    def ready_lanes(self) -> int: ...
