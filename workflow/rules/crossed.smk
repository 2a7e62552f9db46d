# Crossing: any first stage, any subsets, merged or not, any second stage. The parts stand in params.yaml: crossings.
#
#   stage1 -> branch0 .. (on subsets, on lists that a branch draws itself, or on all images)
#          -> merge of all branches, or branch0 alone -> stage2
#
# Any of branch, merge and stage2 may be left out; stage1 always lives with the paper that it comes from.


use rule btm_branch as crossed_branch with:
    input:
        packed,
        recipe=recipe_of("branch"),
        split=split_of,
        subset=own_subset,
        init=stage("stage1"),
    wildcard_constraints:
        method=of_paper("crossed"),


use rule merge as crossed_merge with:
    input:
        packed,
        recipe=recipe_of("merge"),
        models=branches,
        split=split_of,
    wildcard_constraints:
        method=of_paper("crossed"),


use rule mislas_stage2 as crossed_stage2 with:
    input:
        packed,
        recipe=recipe_of("stage2"),
        split=split_of,
        init=trunk,
    wildcard_constraints:
        method=of_paper("crossed"),
