"""What ``company.py`` measures: an LSTM on a machine that it has not for itself.

contenders.py   the three contenders, ready for a shape, by call and by stream
neighbours.py   models of the same process that are called before
others.py       other processes: busy ones, one that takes a processor away; a CPU quota
situations.py   the situations: what is around a call, and how it is timed in it
measure.py      all contenders of a cell in turns
summary.py      ratios, means, what is slower than on one thread
report.py       tables, the picture, the files of the documentation
"""
