"""Write ``docs/results.md``: tables, plots and masks from the cards of the zoo and the stored results.

    python -m models.training.report
    python -m models.training.report --rerun

No number is typed by hand: each comes from a card ``models/zoo/NAME.json`` or from a file of ``docs/results/``:
``conversion-NAME.json`` of ``models.training.convert``, ``robustness-NAME.json`` of ``models.training.robustness``,
``energy-NAME.json`` of ``models.training.energy``, ``weights-NAME.json`` of ``models.training.weights``. Where a file
is missing, the page names the command that makes it.
With ``--rerun`` all of them are made again first, each by the command that is stored in it. Masks are drawn anew where
the pictures are at hand (``SPIKESEG_DATA``); elsewhere the stored ones stay. What there is to say of expectations that
were not reached stands in ``docs/results/remarks.md``, and is taken over as it is.
"""
