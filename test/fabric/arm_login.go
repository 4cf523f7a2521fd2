package fabric

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// tenant is the id of the directory that the subscription trusts.
const tenant = "00000000-0000-4000-8000-000000000001"

func here(r *request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host
}

// cloudMetadata lets az and Terraform discover a custom cloud. The oldest and
// the newest API versions return one cloud, most versions between them a list.
func (f *Fabric) cloudMetadata(r *request) *answer {
	here := here(r)
	cloud := object{
		"name": "fabric", "portal": here, "resourceManager": here, "graph": here, "graphAudience": here, "gallery": here, "batch": here, "media": here,
		"galleryEndpoint": here, "graphEndpoint": here, "portalEndpoint": here, "microsoftGraphResourceId": here,
		// Client libraries ask the public cloud whether to trust the identity
		// provider unless its address looks like one on premises (/adfs).
		// Terraform reads identityProvider instead, and does not support clouds
		// on premises.
		"authentication": object{"loginEndpoint": here + "/adfs", "audiences": []any{here}, "tenant": "common", "identityProvider": "AAD"},
		"suffixes":       object{"storage": "blob.fabric", "keyVaultDns": "vault.fabric"},
	}
	switch v := lowerQuery(r.URL.Query()).Get("api-version"); {
	case v == "2018-01-01": // the version with the regions, by the host of each cloud
		cloud["cloudEndpoint"] = object{"fabric": object{"endpoint": r.Host, "locations": []any{f.opts.Location}}}
	case v >= "2018" && v < "2022":
		return replyJSON(http.StatusOK, []any{cloud})
	}
	return replyJSON(http.StatusOK, cloud)
}

// login is the identity provider. It issues a token to every client, because
// clients do not work without one. The token is not checked (extensions/SPEC.md
// §17.9).
func (f *Fabric) login(r *request, p armPath) *answer {
	path, here := strings.Join(p.lower, "/"), here(r)
	base, found := here+"/"+strings.Join(p.segments[:max(1, len(p.segments)-2)], "/"), false
	switch {
	case strings.HasSuffix(path, "/.well-known/openid-configuration"):
		base = strings.TrimSuffix(base, "/v2.0")
		tokens := base + "/oauth2/token"
		if strings.Contains(path, "/v2.0/") {
			tokens = base + "/oauth2/v2.0/token"
		}
		return replyJSON(http.StatusOK, object{
			"issuer": base, "token_endpoint": tokens, "authorization_endpoint": strings.TrimSuffix(tokens, "token") + "authorize",
			"device_authorization_endpoint": strings.TrimSuffix(tokens, "token") + "devicecode", "jwks_uri": base + "/discovery/keys",
			"response_types_supported": []any{"code"}, "subject_types_supported": []any{"pairwise"}, "id_token_signing_alg_values_supported": []any{"RS256"},
		})
	case path == "common/discovery/instance":
		return replyJSON(http.StatusOK, object{
			"tenant_discovery_endpoint": here + "/common/v2.0/.well-known/openid-configuration",
			"metadata":                  []any{object{"preferred_network": r.Host, "preferred_cache": r.Host, "aliases": []any{r.Host}}},
		})
	case strings.HasSuffix(path, "/oauth2/token"), strings.HasSuffix(path, "/oauth2/v2.0/token"):
		found = r.Method == http.MethodPost
	}
	if !found {
		return nil
	}
	form, err := url.ParseQuery(string(r.body))
	if err != nil || form.Get("grant_type") == "" {
		return replyJSON(http.StatusBadRequest, object{"error": "invalid_request", "error_description": "The request body must contain the following parameter: 'grant_type'."})
	}
	const lifetime = 24 * time.Hour
	now := time.Now()
	claims := object{
		"aud": or(form.Get("resource"), or(strings.TrimSuffix(form.Get("scope"), "/.default"), here)), "iss": here + "/adfs",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(lifetime).Unix(), "ver": "1.0", "tid": tenant,
		"oid": "00000000-0000-4000-8000-000000000002", "sub": "00000000-0000-4000-8000-000000000002",
		"appid": or(form.Get("client_id"), "00000000-0000-4000-8000-000000000003"), "idtyp": "app",
	}
	token := part(object{"typ": "JWT", "alg": "none"}) + "." + part(claims) + "." + base64.RawURLEncoding.EncodeToString([]byte("fabric"))
	return replyJSON(http.StatusOK, object{"token_type": "Bearer", "access_token": token, "expires_in": int(lifetime / time.Second), "ext_expires_in": int(lifetime / time.Second)})
}

func part(o object) string {
	b, _ := json.Marshal(o) // strings and numbers always encode
	return base64.RawURLEncoding.EncodeToString(b)
}
