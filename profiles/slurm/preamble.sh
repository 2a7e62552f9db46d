# Every job sources this on its node before it starts: modules, an environment, where the images are.
# module load cuda
# . .venv/bin/activate
# export LT_DATA_ROOT=/shared/datasets
