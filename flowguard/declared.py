"""What an app with feeds declares: agents, feeds, how each topic is read, and what cannot work.

Read once, when the worker starts: by then all agents are declared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Final

from flowguard._native.wire import LaneRule
from flowguard.agents.agent import FeedAgent
from flowguard.agents.feed import Feed
from flowguard.errors import ConfigError
from flowguard.intake.cursors import Haste, PartitionPlan
from flowguard.lanes.lane_set import LaneSet
from flowguard.lanes.overflow import Divert
from flowguard.lanes.rules import Route
from flowguard.lanes.split import Splitter
from flowguard.tally import AGENTS_MAX
from flowguard.units import MILLISECOND, SECOND

if TYPE_CHECKING:
    from flowguard.app import App

__all__ = ["Declared"]

#: Where few records come at a time, a target has time for so many fetches. Each costs the
#: worker about as much as a hundred records do.
FETCHES_A_TARGET: Final = 16
FETCH_PACE_NS_MAX: Final = 5 * MILLISECOND

#: As far apart are fetches where all lanes have a target, and none of them a tight one.
PATIENT_PACE_NS_MAX: Final = 20 * MILLISECOND


class Declared:
    """What an app declares.

    Args:
        app: The app.
        lanes: Its lanes.
    """

    def __init__(self, app: App, lanes: LaneSet) -> None:
        self.app = app
        self.lanes = lanes

    @cached_property
    def agents(self) -> dict[str, FeedAgent]:
        """Return the agents on feeds, by name."""
        return {
            agent.name: agent for agent in self.app.agents.values() if isinstance(agent, FeedAgent)
        }

    @cached_property
    def feeds(self) -> dict[str, Feed]:
        """Return the feed of each topic that agents read.

        Raises:
            ConfigError: A topic belongs to two feeds.
        """
        feeds: dict[str, Feed] = {}
        for agent in self.agents.values():
            for topic in agent.feed.topics:
                if not feeds.setdefault(topic, agent.feed).is_same_as(agent.feed):
                    raise ConfigError(
                        f"topic {topic!r} belongs to two feeds that agents read; declare it once, "
                        f"and give that feed to all its agents"
                    )
        return feeds

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Return of each feed topic what changes when its records may get other lanes."""
        return {
            topic: fingerprint
            for feed in set(self.feeds.values())
            for topic, fingerprint in feed.rule_fingerprints(self.lanes).items()
        }

    @cached_property
    def first_agents(self) -> frozenset[str]:
        """Return the first agent of each feed: it writes what cannot be decoded, once."""
        first: dict[str, str] = {}
        for agent in self.agents.values():
            for topic in agent.feed.topics:
                first.setdefault(topic, agent.name)
        return frozenset(first.values())

    def is_feed(self, topic: str) -> bool:
        """Tell whether flowguard reads a topic, and not Faust."""
        return topic in self.feeds

    def check(self) -> None:
        """Raise ConfigError for what cannot work."""
        for topic in self.app.topics:
            if not isinstance(topic, Feed):
                for name in set(topic.topics) & self.feeds.keys():
                    raise ConfigError(
                        f"topic {name!r} is declared both as a feed and as a plain topic that is "
                        f"read; a worker can read it in one way only"
                    )
        readers = Counter(name for agent in self.agents.values() for name in agent.feed.topics)
        for name, count in readers.items():
            if count > AGENTS_MAX:
                raise ConfigError(f"{count} agents read feed {name!r}; at most {AGENTS_MAX} can")
        check_algorithms(self.agents.values())
        if self.lanes.spilling:
            from flowguard.spill_service import spill_lanes  # much to load that few need

            spill_lanes(self.lanes)
        _ = self.partition_plans
        self._check_diversions()

    def _check_diversions(self) -> None:
        """Raise ConfigError where a lane would write what this app reads."""
        for lane in self.lanes:
            for policy in lane.policies:
                if isinstance(policy, Divert) and self.is_feed(policy.topic):
                    raise ConfigError(
                        f"lane {lane.name!r} diverts to {policy.topic!r}, which is a feed that "
                        "this app reads: its records would come back; name another topic"
                    )

    @cached_property
    def partition_plans(self) -> dict[str, PartitionPlan]:
        """Return how the partitions of each feed topic are read."""
        plans = {}
        for feed in set(self.feeds.values()):
            splitters = feed.splitters(self.lanes)
            for topic, route in feed.routes(self.lanes).items():
                plans[topic] = self._plan(feed, route, splitters[topic])
        return plans

    def _plan(self, feed: Feed, route: Route, splitter: Splitter) -> PartitionPlan:
        targets_ns = [self.lanes[rank].target_ns for rank in route.ranks]
        tight_ns = [each for each in targets_ns if each is not None]
        all_have_one = None not in targets_ns
        longest_ns = PATIENT_PACE_NS_MAX if all_have_one else FETCH_PACE_NS_MAX
        pace_ns = min([longest_ns, *(each / FETCHES_A_TARGET for each in tight_ns)])
        haste = Haste.NONE
        if all_have_one:
            haste = Haste.MOST if pace_ns < FETCH_PACE_NS_MAX else Haste.SOME
        return PartitionPlan(
            splitter=splitter if splitter.needed else None,
            in_blocks=feed.options.order != "partition",
            rule=lane_rule(route),
            haste=haste,
            may_be_urgent=bool(tight_ns),
            pace_s=pace_ns / SECOND,
            on_offset_loss=feed.options.on_offset_loss,
        )

    @cached_property
    def ranks_of(self) -> dict[str, frozenset[int]]:
        """Return of each feed topic the ranks of the lanes that its records may have."""
        return {
            topic: frozenset(route.ranks)
            for feed in set(self.feeds.values())
            for topic, route in feed.routes(self.lanes).items()
        }


def check_algorithms(agents: Iterable[FeedAgent]) -> None:
    """Raise ConfigError if an algorithm object would see the windows of two agents."""
    steered: dict[int, str] = {}
    for agent in agents:
        algorithm = None if agent.adaptive is None else agent.adaptive.algorithm
        if algorithm is None or isinstance(algorithm, str):
            continue
        other = steered.setdefault(id(algorithm), agent.name)
        if other != agent.name:
            raise ConfigError(
                f"agents {other} and {agent.name} share one algorithm object, which would mix up "
                f"what they teach it; give each an fg.Adaptive with an object of its own"
            )


def lane_rule(route: Route) -> LaneRule:
    """Return a rule as the parser applies it."""
    if not route.table:
        return LaneRule.constant(route.default)
    if route.header is not None:
        return LaneRule.by_header(route.header, dict(route.table), route.default)
    return LaneRule.by_key_prefix(dict(route.table), route.default)
