"""How every figure of the book looks: SVG that reads on light and dark pages, the same bytes on every run."""

GREY = "#808080"
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")


def set_up_plots() -> None:
    """Set matplotlib up for the running IPython session; do nothing if matplotlib is not installed."""
    try:
        import matplotlib
        from cycler import cycler
        from matplotlib_inline.backend_inline import set_matplotlib_formats
        from matplotlib_inline.config import InlineBackend
    except ModuleNotFoundError:
        return
    # A figure carries its creation date unless it is told not to, and would differ on every run.
    options = {"metadata": {"Date": None}, "bbox_inches": "tight"}
    # `%matplotlib inline` starts again from the configuration, so the choice belongs there as well.
    inline = InlineBackend.instance()
    inline.print_figure_kwargs.update(options)
    inline.figure_formats.clear()
    inline.figure_formats.add("svg")
    set_matplotlib_formats("svg", **options)
    matplotlib.rcParams.update(
        {
            "axes.edgecolor": GREY,
            "axes.facecolor": "none",
            "axes.labelcolor": GREY,
            "axes.prop_cycle": cycler(color=OKABE_ITO),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlecolor": GREY,
            "figure.facecolor": "none",
            "figure.figsize": (8, 3.2),
            "grid.color": GREY,
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "savefig.facecolor": "none",
            "svg.hashsalt": "minisgl",
            "text.color": GREY,
            "xtick.color": GREY,
            "ytick.color": GREY,
        }
    )
