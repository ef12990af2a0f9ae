"""Everything that only a GPU can answer, in one command on a bare machine: `bash scripts/gpu`.

A GPU is often borrowed: a machine with Python and torch, no network, and minutes. So the run takes what is missing from wheels
that were carried along, gives every step a limit of its own, goes on when one fails, and writes what it has after every step.

wheels      what a bare machine may lack: packed here, installed there
running     steps one by one, each with its limit, within a total
results     the summary, and the few files that are taken home
steps       the steps, in the order of their importance
facts       the machine, its versions, and how fast it copies and multiplies
train       a model trained for so many minutes
"""
