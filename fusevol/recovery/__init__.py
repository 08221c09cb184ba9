"""The recovery state: what a successor has to know when a worker dies at any instant.

It lies in a memfd that the keeper and the worker have mapped, so that what the worker stored is
there whatever becomes of it, without a system call. A single aligned word is stored or not, never
half (memoryview items are copied by one store); whatever is larger is written first and made valid
by one word afterwards. Descriptors are not kept here but in the descriptor table that keeper and
worker share; the state says which number is what.

One thread of the worker writes; the keeper touches the state only while there is no worker.

    region        the memory, and where everything is in it
    journal       what is being executed: the phases of a request, and who writes which
    nodes         inodes that the kernel knows
    open_handles  what clients hold open
"""
