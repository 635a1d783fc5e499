"""All-pairs Consistency Learning for weakly supervised semantic segmentation: from image tags to pixel masks.

The street, in the direction the data walks; a module imports only from those above it:

    consistency -> classifiers -> seeds -> affinities -> pseudo_labels -> segmenters -> submissions
        -> metrics -> tables -> figures -> report -> exports

Below it lies the ground, which knows nothing of the pipeline: shapes, files, pickles, recipes, config, provenance, explain,
jobs, images, augmentations, datasets, shards, measures, views, models, processes, crf, devices, distributed, training.
"""
