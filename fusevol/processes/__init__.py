"""The processes of one mount: keeper, worker, log agent; how they start, end and take over.

The keeper mounts, watches the worker and cleans up. It never touches a file of the volume and
nothing below the mount point, so that it cannot wait for its own file system.

    starting           first here: checks, then a keeper
    keeper             the main loop; `worker_recovery` acts first when a worker dies
    worker             serves requests; `worker_process` is the keeper's view of it
    agent_supervisor   starts the log agent, and replaces it
    succession         the next keeper, after a keeper died
    unmounting         the end
"""
