# Each step puts its result in place whole, or leaves what was there. Snakemake removes a rule's
# outputs before a job, and after a job that failed: not those of these rules.

from snakemake.jobs import Job


def is_exchanged_by_step(job):
    """Whether a job's step replaces its outputs itself.

    What Snakemake fetches out of its cache needs a free place. Nothing is lost there: those outputs
    are links into the cache.
    """
    is_cached = job.rule.cache and is_sharing()
    places = [Path(output) for output in job.output]
    is_ours = all(place.is_relative_to(RESULTS) for place in places)
    return bool(places) and is_ours and not is_cached


def exchange(remove_outputs, clean_up):
    """Snakemake's two ways of removing outputs, without those that steps exchange."""

    async def remove_existing_output(job):
        if not is_exchanged_by_step(job):
            return await remove_outputs(job)
        # Hooks do not run in a module. From here on what stands in the folder is the workflow's.
        if not is_results_folder(Path(RESULTS)):
            settings.write_config(CONFIG, Path(RESULTS))
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
