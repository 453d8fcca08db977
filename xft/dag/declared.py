"""The artifacts of a run, as `config.steps` declares its steps."""

from collections.abc import Collection, Mapping
from functools import cache

from xft.config.runs import LISTS, Run
from xft.config.sections import XftConfig
from xft.config.steps import RESULT, STEPS, default_of
from xft.dag.wanted import Shared, Wanted


class Declared:
    """The artifacts of a run. of_seeds: the runs that differ in their seed alone.

    A method `_make_<step>` of a subclass makes what the step's declaration does not say.
    """

    def __init__(self, run: Run, shared: Shared):
        self.config = run.config
        self.name, self.changes = run.name, run.changes
        self.shared, self.contents = shared, shared.contents
        self.of_seeds = [self]
        self.of = cache(self.of)  # asked for again and again, by everything that is made from it

    def of(self, step: str, about: str | None = None) -> Wanted:
        """The artifact of a step. about: the lambda, or the set of problems, that it belongs to."""
        make = getattr(self, f"_make_{step}", None)
        return make(about) if make else self._wanted(step, lam=about)

    def _input(self, step: str, lam: str | None) -> Wanted:
        """The artifact of a step that another one, with a lambda, is made from."""
        return self.of(step, lam if STEPS[step].per_lambda else None)

    def _wanted(
        self,
        step: str,
        name: str | None = None,
        options: Mapping | None = None,
        *,
        lam: str | None = None,
        config: XftConfig | None = None,
        sources: Mapping[str, Wanted] = {},
        needs: Mapping[str, Wanted] = {},
        contents: Mapping[str, str] = {},
        read: Collection[str] = (),
        unread: Collection[str] = (),
        flags: Mapping[str, object] = {},
        **about,
    ) -> Wanted:
        """The artifact with a name. All runs whose recipes are equal share it.

        options, config: in place of the run's own. lam: a lambda. sources, needs, flags: beside
        those that the step declares. contents: the hashes of files, for the recipe. read: keys that
        the step reads in this case only. unread: those that it reads in other cases only. about:
        file, files.
        """
        declared, config = STEPS[step], config or self.config
        options = dict(declared.options(config) if options is None else options)
        if "lam" in declared.derived:
            options["lam"] = lam
        given = {*sources, *needs}
        found = {one: self._input(one, lam) for one in declared.inputs if one not in given}
        found |= sources
        for one, (flag, is_read) in declared.optional.items():
            if is_read(config):
                found[one] = self._input(one, lam)
                flags = {**flags, flag: found[one].place}
        if declared.over_seeds:
            found |= self._of_all_seeds(declared.over_seeds)
            flags = {**flags, "models": [str(model.place) for model in found.values()]}
        key_of = declared.recorded | {flag: flag for flag in declared.derived}
        unread = {*unread, *LISTS, *(key_of[flag] for flag in declared.idle_flags(config))}
        keys = (declared.keys | {*read}) - unread
        keys = keys.union(*(source.keys for source in (*found.values(), *needs.values())))
        keys -= {"seed"} if declared.over_seeds else set()
        named = {
            key_of[flag]: value
            for flag, value in options.items()
            if value != default_of(key_of[flag])
        }
        about = {"file": declared.file} | about
        about |= {"keys": keys, "needs": dict(needs), "flags": dict(flags)}
        made = self.shared.artifact(self, step, named, found, contents, **about)
        full = self.prefix(keys) + (name or _name(step, lam))
        if full not in made.names:
            made.names.append(full)
        return made

    def _of_all_seeds(self, step: str) -> dict[str, Wanted]:
        """The artifacts of all seeds. Their order in the configuration does not matter."""
        runs = sorted(self.of_seeds, key=lambda run: run.config.seed)
        return {f"model {number}": run.of(step) for number, run in enumerate(runs, 1)}

    def prefix(self, keys: Collection[str]) -> str:
        """The folders, in the results folder, of what depends on these keys.

        There is a folder for each of the keys in which this run differs from the configuration's
        own values, as moe.num_experts_per_tok~2/seed~7/.
        """
        return "".join(f"{key}~{text}/" for key, text in self.changes.items() if key in keys)


def _name(step: str, lam: str | None) -> str:
    """The name of an artifact in the results folder, by its step."""
    declared = STEPS[step]
    return step + f"/lam~{lam}" * declared.per_lambda + ".json" * (declared.file == RESULT)


def changed(config: XftConfig, section: str, **values: object) -> XftConfig:
    """A configuration with other values in a section."""
    own = getattr(config, section).model_copy(update=values)
    return config.model_copy(update={section: own})
