#!/usr/bin/env bash
# The night on Dataflow, by Cloud Scheduler: the job's driver runs as a Cloud Run job (an image of this checkout with its lock file
# installed), which waits for Dataflow, judges, and publishes. Not run in a cloud yet; options and graph are checked by --dry_run.
#   PROJECT=my-project REGION=europe-west1 BUCKET=my-bucket IMAGE=europe-docker.pkg.dev/my-project/forecourt/driver:1 deploy/nightly-on-dataflow.sh
set -euo pipefail
: "${PROJECT:?}" "${REGION:?}" "${BUCKET:?}" "${IMAGE:?}"

gcloud run jobs deploy forecourt-nightly --project "$PROJECT" --region "$REGION" --image "$IMAGE" \
  --service-account "forecourt-nightly@$PROJECT.iam.gserviceaccount.com" --task-timeout 3h --max-retries 0 --memory 4Gi \
  --command forecourt --args "^;^nightly;--archive;gs://$BUCKET/events;--date;yesterday;--catch-up;--rules;gs://$BUCKET/releases;--metrics;gs://$BUCKET/metrics;--store;bigtable://$PROJECT/profiles/profiles;--json;--runner;DataflowRunner;--project;$PROJECT;--region;$REGION;--temp_location;gs://$BUCKET/tmp;--setup_file;/opt/forecourt/setup.py"

# One run at a time: a remote metrics folder's lock is a claim that two writers can get at the same second, and the scheduler starts one.
gcloud scheduler jobs create http forecourt-nightly --project "$PROJECT" --location "$REGION" --schedule "30 2 * * *" --time-zone Etc/UTC \
  --uri "https://$REGION-run.googleapis.com/apis/run.googleapis.com/v1/namespaces/$PROJECT/jobs/forecourt-nightly:run" \
  --http-method POST --oauth-service-account-email "forecourt-nightly@$PROJECT.iam.gserviceaccount.com"
