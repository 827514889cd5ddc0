"""One file a metric, its equation on top. Pure functions over arrays; where a model is needed, it says so.

What they share: scores are [queries, rows], positive for a proponent. A metric gives one number a query, float64, and
NaN where it has none: `bootstrap.interval` leaves those out and counts them. A score that is no number is refused.
Equal scores are put in an order by a seeded shuffle of the rows (`ranking`), or count by their average rank.
"""
