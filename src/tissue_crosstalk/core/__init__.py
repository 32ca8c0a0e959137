"""The science of tissue-crosstalk: no Kedro, no MLflow, only arrays, tables, models and figures."""
