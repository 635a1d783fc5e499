"""All-pairs Consistency Learning for weakly supervised semantic segmentation: from image tags to pixel masks.

The street, in the direction the data walks; a module imports only from those above it:

    consistency -> classifiers -> localisation -> seeds -> layer_sweeps -> costs -> confident_labels -> affinities
        -> pseudo_labels -> segmenters -> self_training -> predictions -> submissions -> metrics -> paper -> tables
        -> findings -> figures -> attention_figures -> report -> exports -> inference

Below it lies the ground, which knows nothing of the pipeline: shapes, progress, files, extensions, recipes, reproducing,
config, provenance, explain, jobs, images, overlays, hypertext, augmentations, pickles, datasets, shards, measures, views,
models, processes, crf, pixel_refinement, devices, distributed, training.
"""
