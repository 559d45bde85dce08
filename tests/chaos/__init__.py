"""Chaos: workers that are killed, paused, joined and stopped at random, and what came of it.

    plan.py      seed ─▶ what goes wrong, and when: the same seed gives the same plan
    rig.py       does it to real workers on Apache Kafka, while records flow
    sight.py     reads from Kafka, with an outside client, what was produced, put out, committed
    history.py   judges that, and names what is wrong in Jepsen's words; pure
    planted.py   bugs in the worker under test: each of them the checker has to find
    simulated.py the same question to the simulator, a thousand times

python -m tests.chaos --seed 7 --minutes 2         # a run on Apache Kafka
python -m tests.chaos --seed 7 --kills 100         # until so many workers were killed with -9
python -m tests.chaos.simulated 1000               # seeds on the virtual clock
"""
