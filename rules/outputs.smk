# Each step replaces its output only by a complete new one. Snakemake removes the outputs of a job
# before it starts, and after it fails. The code below prevents this for the rules of this workflow.

from snakemake.jobs import Job


def is_exchanged_by_step(job):
    """Whether a job's step replaces its outputs itself.

    Outputs from Snakemake's cache are not replaced by the step: Snakemake needs a free place for
    them. Their removal loses nothing, because they are links into the cache.
    """
    is_cached = job.rule.cache.output and is_sharing()
    places = [Path(output) for output in job.output]
    is_ours = all(place.is_relative_to(RESULTS) for place in places)
    return bool(places) and is_ours and not is_cached


def exchange(remove_outputs, clean_up):
    """Snakemake's two methods that remove outputs, except for those that steps replace."""

    async def remove_existing_output(job):
        if not is_exchanged_by_step(job):
            return await remove_outputs(job)
        # `onstart` does not do this if the rules run in a module.
        if not started:
            started.append(time.time())
            record_run()
        for log in job.log:
            await log.remove()

    async def cleanup(job, skip_outputs):
        if not is_exchanged_by_step(job):
            await clean_up(job, skip_outputs)

    return remove_existing_output, cleanup


if not hasattr(Job, "exchanged_by_steps"):
    Job.remove_existing_output, Job.cleanup = exchange(
        Job.remove_existing_output, Job.cleanup
    )
    Job.exchanged_by_steps = True
