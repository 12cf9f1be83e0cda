"""The interleaved comparison of cylstm with its peers: ``python benchmarks/run.py``.

`comparison` goes over the cases, `measure` times the contenders of one case in turns, `costs` and `roofline` measure
what lies beside; `results` keeps it, `report` and `plots` show it.
"""
