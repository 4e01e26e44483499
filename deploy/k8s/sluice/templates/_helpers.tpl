{{/* Names are cut so that "-core-headless" and an ordinal still fit into the 63 characters of a DNS label. */}}
{{- define "sluice.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "sluice.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "sluice.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "sluice.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "sluice.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "sluice.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Called with (dict "root" $ "component" "core"). */}}
{{- define "sluice.selector" -}}
app.kubernetes.io/name: {{ include "sluice.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "sluice.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "sluice.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "sluice.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "sluice.core" -}}
{{ include "sluice.fullname" . }}-core
{{- end }}

{{- define "sluice.gateway" -}}
{{ include "sluice.fullname" . }}-gateway
{{- end }}

{{- define "sluice.tokensSecret" -}}
{{- default (printf "%s-tokens" (include "sluice.fullname" .)) .Values.gateway.tokens.existingSecret }}
{{- end }}

{{/* The fabric address of the core node with an ordinal: its pod's name in the headless service, which outlives the pod.
     Called with (dict "root" $ "ordinal" 0). */}}
{{- define "sluice.address" -}}
{{- $core := include "sluice.core" .root -}}
tcp:{{ $core }}-{{ .ordinal }}.{{ $core }}-headless.{{ .root.Release.Namespace }}.svc:{{ .root.Values.core.ports.fabric }}
{{- end }}

{{/* 1=tcp:…,2=tcp:…: node numbers are ordinals plus one. The founders alone, whatever the number of replicas: a node that
     is none of them joins them. */}}
{{- define "sluice.peers" -}}
{{- if lt (int .Values.core.replicas) (int .Values.core.founders) }}
{{- fail (printf "core.replicas is %d, and core.founders %d: nodes that are not started cannot begin the cluster" (int .Values.core.replicas) (int .Values.core.founders)) }}
{{- end }}
{{- $peers := list }}
{{- range $ordinal := until (int .Values.core.founders) }}
{{- $peers = append $peers (printf "%d=%s" (add1 $ordinal) (include "sluice.address" (dict "root" $ "ordinal" $ordinal))) }}
{{- end }}
{{- join "," $peers }}
{{- end }}

{{/* Where the gateways begin: they learn of all others from these. */}}
{{- define "sluice.nodes" -}}
{{- $nodes := list }}
{{- range $ordinal := until (int .Values.core.founders) }}
{{- $nodes = append $nodes (include "sluice.address" (dict "root" $ "ordinal" $ordinal)) }}
{{- end }}
{{- join "," $nodes }}
{{- end }}

{{- define "sluice.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "sluice.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
