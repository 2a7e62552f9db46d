"""One module a verb: what a script calls, from paths and a recipe to an artefact."""
