{{/* The metadata of an object for monitoring, with labels and annotations of its own. Given: root, name, own. */}}
{{- define "kworker.monitoringMetadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "kworker.labels" (dict "root" .root "part" "monitoring") | nindent 2 }}
  {{- with .own.labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge dict (default dict .own.annotations) .root.Values.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The alerts of files/alerts.yaml that are enabled, as the values have them. */}}
{{- define "kworker.alerts" -}}
{{- $rules := .Values.monitoring.rules -}}
{{- /* With --reuse-values those of a chart before 0.3, which had neither. */ -}}
{{- $scope := tpl (hasKey $rules "scope" | ternary $rules.scope "namespace=\"{{ .Release.Namespace }}\"") . -}}
{{- $pods := printf "%s-.+" (include "kworker.fullname" .) -}}
{{- $made := list -}}
{{- range (first (.Files.Get "files/alerts.yaml" | fromYaml).groups).rules -}}
{{- $given := get (default dict $rules.alerts) .alert -}}
{{- if and $given $given.enabled -}}
{{- $threshold := include "kworker.text" (default 0 $given.threshold) -}}
{{- $_ := set . "expr" (.expr | replace "THRESHOLD" $threshold | replace "SCOPE" $scope | replace "PODS" $pods) -}}
{{- $_ := set . "for" $given.for -}}
{{- $_ := set . "labels" (merge (dict "severity" $given.severity) (default dict $given.labels) $rules.alertLabels) -}}
{{- if $rules.runbook -}}
{{- $_ := set .annotations "runbook_url" (printf "%s#%s" $rules.runbook (lower .alert)) -}}
{{- end -}}
{{- $made = append $made . -}}
{{- end -}}
{{- end -}}
{{- toYaml $made -}}
{{- end -}}
