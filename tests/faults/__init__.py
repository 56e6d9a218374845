"""The experiment: real faults under a living house, and books kept outside of it that must agree afterwards.

    ledger      append-only files: what callers asked and were answered, what Meta's stand-in took and told
    schedule    which fault comes when, drawn from a seed
    site        the house: durable Postgres, gateway, functions and drainers as processes that can die
    way         the proxy between the functions and the gateway, which can lie
    wrongs      what each kind of fault does to the site
    traffic     callers, customers, cron
    books       the comparison of the files with the database's log
    experiment  one run of all that
    bodies      webhook bodies nobody wrote by hand

`make faults` runs the long form, `tests/faults/test_faults.py` a short one.
"""
