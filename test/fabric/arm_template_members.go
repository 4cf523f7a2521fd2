package fabric

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Members of the parts of a template.
var (
	parameterMembers = []string{
		"type", "defaultValue", "allowedValues", "minValue", "maxValue", "minLength", "maxLength", "metadata", "nullable",
		"items", "prefixItems", "properties", "additionalProperties", "discriminator", "sealed",
	}
	outputMembers           = append([]string{"value", "condition", "copy"}, parameterMembers...)
	templateResourceMembers = append([]string{
		"apiVersion", "comments", "condition", "copy", "dependsOn", "existing", "extendedLocation", "import", "metadata", "resourceGroup", "resources",
		"scope", "subscriptionId", "options",
	}, resourceMembers...)
)

// misspeltInTemplate says which member of a part of a template is probably meant
// to be another, such as a "dependOn" that would order nothing; "" if none is.
func misspeltInTemplate(template object, path string) string {
	for _, section := range []struct {
		name, kind string
		known      []string
	}{
		{"parameters", "TemplateInputParameter", parameterMembers},
		{"outputs", "TemplateOutputParameter", outputMembers},
	} {
		parts, _ := template[section.name].(object)
		for _, name := range slices.Sorted(maps.Keys(parts)) {
			part, _ := parts[name].(object)
			if text := misspeltMember(slices.Collect(maps.Keys(part)), section.kind, path+section.name+"."+name, section.known); text != "" {
				return text
			}
		}
	}
	return misspeltInResources(template["resources"], path+"resources")
}

// misspeltInResources is misspeltInTemplate for resources, which are a list or, by
// symbolic names, an object.
func misspeltInResources(resources any, path string) string {
	switch list := resources.(type) {
	case []any:
		for i, r := range list {
			if text := misspeltInResource(r, fmt.Sprintf("%s[%d]", path, i)); text != "" {
				return text
			}
		}
	case object:
		for _, name := range slices.Sorted(maps.Keys(list)) {
			if text := misspeltInResource(list[name], path+"."+name); text != "" {
				return text
			}
		}
	}
	return ""
}

func misspeltInResource(resource any, path string) string {
	r, _ := resource.(object)
	if text := misspeltMember(slices.Collect(maps.Keys(r)), "TemplateResource", path, templateResourceMembers); text != "" {
		return text
	}
	if kind, _ := r["type"].(string); strings.EqualFold(kind, "Microsoft.Resources/deployments") {
		properties, _ := r["properties"].(object)
		nested, _ := properties["template"].(object)
		if text := misspeltInTemplate(nested, path+".properties.template."); text != "" {
			return text
		}
	}
	return misspeltInResources(r["resources"], path+".resources")
}
