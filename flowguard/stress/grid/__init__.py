"""The grid: limits of concurrency in a closed loop with providers, beside those of others.

    scenarios × seeds × players ─▶ cells ─▶ table, targets
                                    │
              Limiter (the real one) ⇄ Provider (servers, knee, noise, refusals, …)

- Time is virtual and chance is seeded: a cell gives the same result everywhere.
- All players have the same windows, except ARC, which looks once a service time, and the same
  bounds. Each starts where it starts by itself, unless the scenario says where all start.
- What a cell is worth was fixed before anything was tuned (`score`); constants were tuned on
  seeds 1 to 4 of the scenarios, and never on those that are held out.
"""
